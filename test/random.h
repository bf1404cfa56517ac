/*
 * random.h
 *	  Random numbers of the stand-alone programs: the same in every run.
 */
#ifndef ANN_TEST_RANDOM_H
#define ANN_TEST_RANDOM_H

#include <stdint.h>

/* xorshift64* (Vigna 2016) */
static inline uint64_t
Random64(void)
{
	static uint64_t state = 0x9e3779b97f4a7c15;

	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 0x2545f4914f6cdd1d;
}

#endif							/* ANN_TEST_RANDOM_H */
