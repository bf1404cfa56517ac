/*
 * number.h
 *	  Reading numbers from text.
 */
#ifndef ANN_NUMBER_H
#define ANN_NUMBER_H

#include "postgres.h"

#include <float.h>

typedef enum AnnNumberStatus
{
	ANN_NUMBER_OK,				/* infinity and NaN by name included */
	ANN_NUMBER_SYNTAX,
	ANN_NUMBER_OVERFLOW,
	ANN_NUMBER_UNDERFLOW		/* not zero, but rounds to zero */
} AnnNumberStatus;

extern const double ann_powers_of_ten[];
#define ANN_MAX_POWER_OF_TEN 60

extern AnnNumberStatus AnnReadFloatSlow(const char **p, float *result);

static inline bool
AnnIsSpace(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static inline const char *
AnnSkipSpace(const char *p)
{
	while (AnnIsSpace(*p))
		p++;
	return p;
}

static inline bool
AnnIsDigit(char c)
{
	return (unsigned char) (c - '0') < 10;
}

/*
 * Reads the number at *p: accepts what strtof accepts, gives what strtof
 * gives, and moves *p behind it (not on a syntax error).
 *
 * Plain decimals do not need strtof (W. D. Clinger, How to Read Floating Point
 * Numbers Accurately, 1990, section 3): 19 digits as an integer, times or over a power of
 * ten, is wrong by less than 2^-51 of the value as a double: one rounding of
 * the integer, one of the power, one of the result, and what the 20th and
 * later digits are worth.  Rounding that to float is right unless a tie between two
 * floats lies within the error, which the low bits of the double tell.
 */
static inline AnnNumberStatus
AnnReadFloat(const char **p, float *result)
{
	const char *s = *p;
	bool		negative = (*s == '-');
	bool		any = false;
	uint64		integer = 0;
	int			digits = 0;		/* significant ones in integer */
	int			exponent = 0;
	double		d;
	uint64		bits;
	int			tie;

	if (*s == '-' || *s == '+')
		s++;
	for (; AnnIsDigit(*s); s++)
	{
		any = true;
		if (digits < 19)
		{
			integer = integer * 10 + (*s - '0');
			digits += (integer != 0);
		}
		else
			exponent++;
	}
	if (*s == '.')
	{
		for (s++; AnnIsDigit(*s); s++)
		{
			any = true;
			if (digits < 19)
			{
				integer = integer * 10 + (*s - '0');
				digits += (integer != 0);
				exponent--;
			}
		}
	}
	if (!any)
		return AnnReadFloatSlow(p, result);
	if (*s == 'e' || *s == 'E')
	{
		bool		minus;
		int			e = 0;

		s++;
		minus = (*s == '-');
		if (*s == '-' || *s == '+')
			s++;
		if (!AnnIsDigit(*s))
			return AnnReadFloatSlow(p, result);
		for (; AnnIsDigit(*s); s++)
			e = Min(e * 10 + (*s - '0'), 100000);
		exponent += minus ? -e : e;
	}
	if (*s != ',' && *s != ']' && *s != '}' && *s != '\0' && !AnnIsSpace(*s))
		return AnnReadFloatSlow(p, result);

	if (integer == 0)
	{
		*result = negative ? -0.0f : 0.0f;
		*p = s;
		return ANN_NUMBER_OK;
	}
	if (exponent < -ANN_MAX_POWER_OF_TEN || exponent > ANN_MAX_POWER_OF_TEN)
		return AnnReadFloatSlow(p, result);
	d = (double) integer;
	if (exponent < 0)
		d /= ann_powers_of_ten[-exponent];
	else
		d *= ann_powers_of_ten[exponent];

	/* A float keeps 29 bits less than a double. */
	memcpy(&bits, &d, sizeof(bits));
	tie = (int) (bits & ((1 << 29) - 1)) - (1 << 28);
	if (d < FLT_MIN || d > FLT_MAX || (tie >= -8 && tie <= 8))
		return AnnReadFloatSlow(p, result);
	*result = (float) (negative ? -d : d);
	*p = s;
	return ANN_NUMBER_OK;
}

#endif							/* ANN_NUMBER_H */
