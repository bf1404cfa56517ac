/*
 * shim.h
 *	  The few services of the server that input and output functions use, for
 *	  a program that is no server.  Every allocation is malloc's own, so that
 *	  AddressSanitizer sees its bounds.
 */
#ifndef ANN_FUZZ_SHIM_H
#define ANN_FUZZ_SHIM_H

#include "postgres.h"

#include "fmgr.h"
#include "nodes/nodes.h"

/* SQLSTATE and message of the last error. */
extern int	shim_sqlstate;
extern char shim_message[1024];
extern const char *ShimSqlState(void);

/*
 * Calls a function of up to three arguments.  Returns false if it raised an error;
 * escontext (may be NULL) is where a soft error goes.
 */
extern bool ShimCall(PGFunction function, Datum *result, Node *escontext,
					 Datum a, Datum b, Datum c);

/* Frees all that was allocated since the last call. */
extern void ShimFreeAll(void);

#endif							/* ANN_FUZZ_SHIM_H */
