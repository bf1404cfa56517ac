/*
 * dense.h
 *	  What the dense_*_template.h files, one per family of functions, are made
 *	  from.  vector.c and halfvec.c define an element type and include them all.
 *
 * The instantiating file defines, before it includes the templates:
 *
 *	DENSE_NAME			name of the SQL type, as a string
 *	DENSE_SYMBOL(name)	C symbol of its function of that name
 *	DENSE_VECTOR		type of the value
 *	DENSE_ELEMENT		type of an element
 *	DENSE_KERNEL(op)	kernel of that operation
 *	DENSE_GETARG(n)		an argument, detoasted
 *	DENSE_GETDISTARG(n) an argument of a distance function
 *	DenseNew			makes a value of so many dimensions
 *	DenseToFloat		an element as float4
 *	DenseFromFloat		an element from a float4 that fits
 *	DenseFits			whether a float4 becomes a finite element
 *	DenseLoad			n elements as float4, in place or in the buffer given
 *	DenseStore			n elements from float4
 *	DenseCompare		order of two elements
 *	DenseSwapBytes		between host and network byte order
 */
#ifndef ANN_DENSE_H
#define ANN_DENSE_H

#include "types/shared.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "common/shortest_dec.h"
#include "libpq/pqformat.h"
#include "port/pg_bswap.h"
#include "types/agg.h"
#include "types/number.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/fmgrprotos.h"

#define DENSE_FUNCTION(name) \
	PG_FUNCTION_INFO_V1(DENSE_SYMBOL(name)); \
	Datum \
	DENSE_SYMBOL(name) (PG_FUNCTION_ARGS)

#endif							/* ANN_DENSE_H */
