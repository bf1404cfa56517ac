/*
 * detoast.h
 *	  Arguments of SQL functions, free of TOAST, without a copy where possible.
 */
#ifndef ANN_DETOAST_H
#define ANN_DETOAST_H

#include "postgres.h"

#include "fmgr.h"

#include "compat.h"

/*
 * Arguments with this number and above are detoasted but not kept; enough for
 * every binary operator and aggregate transition function.
 */
#define ANN_CACHED_ARGS 2

extern struct varlena *AnnDetoast(struct varlena *attr);
extern struct varlena *AnnDetoastArgSlow(FunctionCallInfo fcinfo, int argno);

/*
 * Argument argno, which must be of a varlena type and not NULL, as a plain
 * value with a 4-byte header.  It belongs to the caller's row or to the call
 * site: read it only, and only until the function returns.
 */
static inline struct varlena *
AnnDetoastArg(FunctionCallInfo fcinfo, int argno)
{
	struct varlena *attr = (struct varlena *) DatumGetPointer(fcinfo->args[argno].value);

	if (likely(VARATT_IS_4B_U(attr)))
		return attr;
	return AnnDetoastArgSlow(fcinfo, argno);
}

#endif							/* ANN_DETOAST_H */
