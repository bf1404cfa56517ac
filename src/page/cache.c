/*
 * cache.c
 *	  The table of what a backend remembers of indexes.
 */
#include "postgres.h"

#include "utils/inval.h"
#include "utils/memutils.h"

#include "page/cache.h"

/* An index may be gone: its cache goes at the next AnnIndexCacheFind, not under whoever uses it now. */
static void
relationChanged(Datum arg, Oid relid)
{
	AnnIndexCaches *caches = (AnnIndexCaches *) DatumGetPointer(arg);
	HASH_SEQ_STATUS seq;
	AnnIndexCache *cache;

	if (OidIsValid(relid))
	{
		cache = hash_search(caches->table, &relid, HASH_FIND, NULL);
		if (cache != NULL)
			cache->stale = caches->any_stale = true;
		return;
	}
	hash_seq_init(&seq, caches->table);
	while ((cache = hash_seq_search(&seq)) != NULL)
		cache->stale = caches->any_stale = true;
}

/* Frees the caches of relations that have changed, but for this one, which is there. */
static void
dropStale(AnnIndexCaches *caches, Oid except)
{
	HASH_SEQ_STATUS seq;
	AnnIndexCache *cache;

	caches->any_stale = false;
	caches->last = NULL;
	hash_seq_init(&seq, caches->table);
	while ((cache = hash_seq_search(&seq)) != NULL)
	{
		if (!cache->stale)
			continue;
		if (cache->relid == except)
		{
			cache->stale = false;
			continue;
		}
		if (cache->context != NULL)
			MemoryContextDelete(cache->context);
		hash_search(caches->table, &cache->relid, HASH_REMOVE, NULL);
	}
}

/*
 * The cache of this index.  If it is not loaded, or not from the index's file, `loaded` is
 * false: the caller resets and fills it.
 */
AnnIndexCache *
AnnIndexCacheFind(AnnIndexCaches *caches, Relation index)
{
	Oid			relid = RelationGetRelid(index);
	AnnIndexCache *cache;
	bool		found;

	/* Nearly always, and several times a query. */
	cache = caches->last;
	if (cache != NULL && cache->relid == relid && !caches->any_stale && cache->loaded &&
		AnnLocatorEquals(cache->locator, AnnRelationLocator(index)))
		return cache;

	if (caches->table == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(Oid);
		ctl.entrysize = caches->size;
		ctl.hcxt = CacheMemoryContext;
		caches->table = hash_create(caches->name, 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		CacheRegisterRelcacheCallback(relationChanged, PointerGetDatum(caches));
	}
	if (caches->any_stale)
		dropStale(caches, relid);
	cache = hash_search(caches->table, &relid, HASH_ENTER, &found);
	if (!found)
		memset((char *) cache + sizeof(Oid), 0, caches->size - sizeof(Oid));
	if (cache->loaded && !AnnLocatorEquals(cache->locator, AnnRelationLocator(index)))
		cache->loaded = false;
	return caches->last = cache;
}

/*
 * Whether the index is of the format's version.  If not, warns: once per backend, as long as
 * the index stays the same.
 */
bool
AnnIndexCacheReadable(AnnIndexCaches *caches, Relation index, const AnnFormat *format)
{
	AnnIndexCache *cache = AnnIndexCacheFind(caches, index);
	uint16		version;

	if (cache->loaded)
		return true;
	version = AnnPageFormatVersion(index, format);
	if (version == format->version)
		return true;
	if (!cache->warned)
		ereport(WARNING,
				(errcode(ERRCODE_INDEX_CORRUPTED),
				 errmsg("index \"%s\" is not used: it has version %u of the %s format, this library reads version %u",
						RelationGetRelationName(index), version, format->name, format->version),
				 errhint("Please REINDEX it.")));
	cache->warned = true;
	return false;
}

/*
 * Empties a cache, which is to be loaded from the index's file: all zero but for the
 * file and a new context.
 */
void
AnnIndexCacheReset(const AnnIndexCaches *caches, AnnIndexCache *cache, Relation index)
{
	if (cache->context != NULL)
		MemoryContextDelete(cache->context);
	memset((char *) cache + sizeof(Oid), 0, caches->size - sizeof(Oid));
	cache->context = AllocSetContextCreate(CacheMemoryContext, "ann index cache", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSetIdentifier(cache->context, caches->name);
	cache->locator = AnnRelationLocator(index);
}
