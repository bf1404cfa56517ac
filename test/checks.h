/*
 * checks.h
 *	  Bookkeeping of the stand-alone test programs.
 *
 * A test is what happens between Begin and End; it passes unless a Check in it
 * fails.
 */
#ifndef ANN_TEST_CHECKS_H
#define ANN_TEST_CHECKS_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static char test_name[256];
static bool test_failed;
static int	passed;
static int	failed;

static void __attribute__((format(printf, 1, 2)))
Begin(const char *format,...)
{
	va_list		args;

	va_start(args, format);
	vsnprintf(test_name, sizeof(test_name), format, args);
	va_end(args);
	test_failed = false;
}

static void
End(void)
{
	if (test_failed)
		failed++;
	else
		passed++;
}

/* Of a test that fails only the first failure is told. */
static void __attribute__((format(printf, 2, 3)))
Check(bool ok, const char *format,...)
{
	va_list		args;

	if (ok || test_failed)
		return;
	test_failed = true;
	va_start(args, format);
	printf("FAILED %s: ", test_name);
	vprintf(format, args);
	printf("\n");
	va_end(args);
}

/* Prints the counts; the program's exit status. */
static int
Finish(void)
{
	printf("%d passed, %d failed\n", passed, failed);
	return failed > 0;
}

#endif							/* ANN_TEST_CHECKS_H */
