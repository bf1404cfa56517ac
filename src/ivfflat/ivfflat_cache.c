/*
 * ivfflat_cache.c
 *	  What a backend remembers of an index: meta page, centroid codes, first pages.
 */
#include "postgres.h"

#include "storage/bufmgr.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "ivfflat/ivfflat.h"

/* Centroids without codes are kept as vectors up to this size. */
#define MAX_CACHED_VECTORS ((Size) 16 * 1024 * 1024)

static HTAB *caches = NULL;

static void
loadCentroids(Relation index, AnnIvfCache *cache)
{
	const AnnIvfMetaPageData *meta = &cache->meta;
	AnnIvfCentroids *centroids = &cache->centroids;
	Size		dim = meta->layout.dim;
	Size		vectors = mul_size(mul_size(sizeof(float), dim), meta->lists);

	centroids->count = (int) meta->lists;
	centroids->dim = (int) dim;
	centroids->ip = meta->layout.metric == ANN_METRIC_IP;
	centroids->block = meta->centroids;
	if (BlockNumberIsValid(meta->centroid_codes))
	{
		Size		stride = AnnIvfCentroidCodeStride(&meta->centroid_code);
		Size		size = sizeof(float) * dim + stride * meta->lists;
		char	   *blob = MemoryContextAllocHuge(cache->context, size);

		AnnIvfReadBlob(index, NULL, meta->centroid_codes, 0, size, blob);
		centroids->code = meta->centroid_code;
		centroids->mean = (const float *) blob;
		centroids->codes = blob + sizeof(float) * dim;
		centroids->code_stride = stride;
	}
	else if (BlockNumberIsValid(meta->centroids) && vectors <= MAX_CACHED_VECTORS)
	{
		char	   *blob = MemoryContextAllocHuge(cache->context, vectors);

		AnnIvfReadBlob(index, NULL, meta->centroids, 0, vectors, blob);
		centroids->vectors = (const float *) blob;
	}
}

/*
 * The backend's cache of this index, valid until the end of the current call; its
 * meta page has just been read.
 */
AnnIvfCache *
AnnIvfCacheGet(Relation index)
{
	AnnIvfCache *cache;
	Oid			relid = RelationGetRelid(index);
	AnnIvfMetaPageData meta;
	bool		found;

	if (caches == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(Oid);
		ctl.entrysize = sizeof(AnnIvfCache);
		ctl.hcxt = CacheMemoryContext;
		caches = hash_create("ann ivfflat index caches", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	cache = hash_search(caches, &relid, HASH_ENTER, &found);
	if (!found)
	{
		cache->loaded = false;
		cache->context = NULL;
	}
	AnnIvfReadMeta(index, &meta);
	if (!cache->loaded || !AnnLocatorEquals(cache->locator, AnnRelationLocator(index)) ||
		cache->meta.generation != meta.generation || cache->meta.heads != meta.heads)
	{
		if (cache->context != NULL)
			MemoryContextDelete(cache->context);
		memset((char *) cache + sizeof(Oid), 0, sizeof(*cache) - sizeof(Oid));
		cache->context = AllocSetContextCreate(CacheMemoryContext, "ann ivfflat index cache", ALLOCSET_DEFAULT_SIZES);
		cache->locator = AnnRelationLocator(index);
		cache->hints.context = cache->context;
		cache->meta = meta;
		AnnIvfSpaceInit(&cache->space, &cache->meta.layout);
		loadCentroids(index, cache);
		cache->centroids.hints = &cache->hints;
		cache->loaded = true;
	}
	cache->meta = meta;
	/* The relation was opened anew, maybe, since the last call. */
	cache->centroids.index = index;
	AnnBufferHintsResize(&cache->hints, RelationGetNumberOfBlocks(index));
	return cache;
}
