/*
 * tools.h
 *	  What the SQL functions about an index have in common.
 */
#ifndef ANN_TOOLS_H
#define ANN_TOOLS_H

#include "postgres.h"

#include "access/amapi.h"
#include "utils/rel.h"

#include "page/check.h"

/* What an access method does for these functions; told by its ambuild. */
typedef struct AnnToolMethods
{
	ambuild_function build;
	void		(*check) (AnnCheck *check);
	AnnCheckValue (*value) (Relation index, const Datum *values, const bool *isnull);
	void		(*describe) (AnnInfo *info);
	const char *setting;		/* how wide a search is */
	const char *option;			/* and an index's default of it */
	bool		is_graph;		/* a row leads to its neighbours, and the setting is at least the rows that are wanted */
} AnnToolMethods;

/* check.c */
extern Relation AnnToolOpenIndex(Oid relid, LOCKMODE lockmode, Relation *heap, const AnnToolMethods **found);

#endif							/* ANN_TOOLS_H */
