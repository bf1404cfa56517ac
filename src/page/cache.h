/*
 * cache.h
 *	  What a backend remembers of indexes, by OID: the part that does not depend on the
 *	  access method.
 */
#ifndef ANN_CACHE_H
#define ANN_CACHE_H

#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/rel.h"

#include "compat.h"
#include "page/page.h"

/*
 * The first member of an access method's own struct.  Valid until the next
 * AnnIndexCacheFind, which frees those of indexes that may be gone.
 */
typedef struct AnnIndexCache
{
	Oid			relid;			/* hash key */
	bool		loaded;			/* set by the access method when all the rest is */
	bool		stale;			/* the relation has changed, or is gone */
	bool		warned;			/* of a format that this library does not read */
	AnnRelationLocatorData locator; /* the file that the rest is about */
	MemoryContext context;		/* of what the rest points to */
} AnnIndexCache;

/* All of an access method. */
typedef struct AnnIndexCaches
{
	const char *name;
	Size		size;			/* of the access method's struct */
	HTAB	   *table;
	AnnIndexCache *last;		/* that was found last; NULL: none */
	bool		any_stale;
} AnnIndexCaches;

extern AnnIndexCache *AnnIndexCacheFind(AnnIndexCaches *caches, Relation index);
extern bool AnnIndexCacheReadable(AnnIndexCaches *caches, Relation index, const AnnFormat *format);
extern void AnnIndexCacheReset(const AnnIndexCaches *caches, AnnIndexCache *cache, Relation index);

#endif							/* ANN_CACHE_H */
