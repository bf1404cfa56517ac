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

		AnnIvfReadBlob(index, meta->centroid_codes, 0, size, blob);
		centroids->code = meta->centroid_code;
		centroids->mean = (const float *) blob;
		centroids->codes = blob + sizeof(float) * dim;
		centroids->code_stride = stride;
	}
	else if (BlockNumberIsValid(meta->centroids) && vectors <= MAX_CACHED_VECTORS)
	{
		char	   *blob = MemoryContextAllocHuge(cache->context, vectors);

		AnnIvfReadBlob(index, meta->centroids, 0, vectors, blob);
		centroids->vectors = (const float *) blob;
	}
}

static void
loadHeads(Relation index, AnnIvfCache *cache)
{
	uint32		total = AnnIvfTotalLists(&cache->meta);

	cache->first = MemoryContextAlloc(cache->context, sizeof(BlockNumber) * total);
	for (uint32 i = 0; i < total; i += ANN_IVF_HEADS_PER_PAGE)
	{
		Buffer		buffer = ReadBuffer(index, cache->meta.heads + i / ANN_IVF_HEADS_PER_PAGE);
		const AnnIvfListHead *heads;

		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		heads = (AnnIvfListHead *) AnnPageRaw(AnnPageGet(index, buffer, ANN_IVFFLAT_PAGE_ID, ANN_IVF_HEADS));
		for (uint32 j = 0; j < ANN_IVF_HEADS_PER_PAGE && i + j < total; j++)
			cache->first[i + j] = heads[j].first;
		UnlockReleaseBuffer(buffer);
	}
}

/*
 * The backend's cache of this index, valid until the end of the current call.
 * What it holds does not change while the index keeps its file.
 */
AnnIvfCache *
AnnIvfCacheGet(Relation index)
{
	AnnIvfCache *cache;
	Oid			relid = RelationGetRelid(index);
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
	if (!cache->loaded || !AnnLocatorEquals(cache->locator, AnnRelationLocator(index)))
	{
		if (cache->context != NULL)
			MemoryContextDelete(cache->context);
		memset((char *) cache + sizeof(Oid), 0, sizeof(*cache) - sizeof(Oid));
		cache->context = AllocSetContextCreate(CacheMemoryContext, "ann ivfflat index cache", ALLOCSET_DEFAULT_SIZES);
		cache->locator = AnnRelationLocator(index);
		cache->hints.context = cache->context;
		AnnIvfReadMeta(index, &cache->meta);
		AnnIvfSpaceInit(&cache->space, &cache->meta.layout);
		loadCentroids(index, cache);
		loadHeads(index, cache);
		cache->loaded = true;
	}
	/* The relation was opened anew, maybe, since the last call. */
	cache->centroids.index = index;
	AnnBufferHintsResize(&cache->hints, RelationGetNumberOfBlocks(index));
	return cache;
}
