/*
 * ivfflat_cache.c
 *	  What a backend remembers of an index: meta page, centroid codes, list heads.
 */
#include "postgres.h"

#include "storage/bufmgr.h"
#include "utils/memutils.h"

#include "ivfflat/ivfflat.h"

/* Centroids are kept as vectors up to this size, where they have codes too, and where not. */
#define MAX_CODED_VECTORS ((Size) 4 * 1024 * 1024)
#define MAX_CACHED_VECTORS ((Size) 16 * 1024 * 1024)

static AnnIndexCaches caches = {.name = "ann ivfflat index caches", .size = sizeof(AnnIvfCache)};

static const AnnFormat format = {
	.name = "ivfflat", .page_id = ANN_IVFFLAT_PAGE_ID, .meta_kind = ANN_IVF_META, .magic = ANN_IVF_MAGIC, .version = ANN_IVF_VERSION
};

static void
loadCentroids(Relation index, AnnIvfCache *cache)
{
	const AnnIvfMetaPageData *meta = &cache->meta;
	AnnIvfCentroids *centroids = &cache->centroids;
	Size		dim = meta->layout.dim;
	Size		vectors = mul_size(mul_size(sizeof(float), dim), meta->lists);
	bool		coded = BlockNumberIsValid(meta->centroid_codes);

	centroids->count = (int) meta->lists;
	centroids->dim = (int) dim;
	centroids->ip = meta->layout.metric == ANN_METRIC_IP;
	centroids->block = meta->centroids;
	if (coded)
	{
		Size		stride = AnnIvfCentroidCodeStride(&meta->centroid_code);
		Size		size = sizeof(float) * dim + stride * meta->lists;
		char	   *blob = MemoryContextAllocHuge(cache->base.context, size);

		AnnIvfReadBlob(index, NULL, meta->centroid_codes, 0, size, blob);
		centroids->code = meta->centroid_code;
		centroids->mean = (const float *) blob;
		centroids->codes = blob + sizeof(float) * dim;
		centroids->code_stride = stride;
	}
	if (BlockNumberIsValid(meta->centroids) && vectors <= (coded ? MAX_CODED_VECTORS : MAX_CACHED_VECTORS))
	{
		char	   *blob = MemoryContextAllocHuge(cache->base.context, vectors);

		AnnIvfReadBlob(index, NULL, meta->centroids, 0, vectors, blob);
		centroids->vectors = (const float *) blob;
	}
	if (coded && centroids->vectors != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(cache->base.context);

		AnnIvfCodeInBytes(centroids, &cache->centroid_bytes);
		MemoryContextSwitchTo(old);
	}
}

/*
 * Brings the cache up to date: reads the meta page, and centroids if they have changed.
 */
static void
refresh(Relation index, AnnIvfCache *cache)
{
	AnnIvfMetaPageData meta;
	MemoryContext old;

	AnnIvfReadMeta(index, &meta);
	/* The same file may hold another build: TRUNCATE in the transaction that made the table. */
	if (!cache->base.loaded || cache->meta.build_id != meta.build_id || cache->meta.generation != meta.generation)
	{
		AnnIndexCacheReset(&caches, &cache->base, index);
		cache->hints.context = cache->base.context;
		cache->meta = meta;
		AnnIvfSpaceInit(&cache->space, &cache->meta.layout);
		loadCentroids(index, cache);
		cache->centroids.hints = &cache->hints;
		old = MemoryContextSwitchTo(cache->base.context);
		cache->heads = AnnIvfReadHeads(index, &cache->meta);
		cache->trails = palloc(mul_size(sizeof(AnnIvfTrail), AnnIvfTotalLists(&cache->meta)));
		memset(cache->trails, 0xFF, mul_size(sizeof(AnnIvfTrail), AnnIvfTotalLists(&cache->meta)));
		for (uint32 i = 0; i < AnnIvfTotalLists(&cache->meta); i++)
			cache->trails[i].blocks[0] = cache->heads[i].first;
		MemoryContextSwitchTo(old);
	}
	cache->meta = meta;
	AnnBufferHintsResize(&cache->hints, RelationGetNumberOfBlocks(index));
	cache->base.loaded = true;
}

/*
 * Whether the index is of the format that this library reads; warns if not.
 */
bool
AnnIvfIsReadable(Relation index)
{
	return AnnIndexCacheReadable(&caches, index, &format);
}

/*
 * The backend's cache of this index, valid until the end of the current call; its
 * meta page has just been read.
 */
AnnIvfCache *
AnnIvfCacheGet(Relation index)
{
	AnnIvfCache *cache = (AnnIvfCache *) AnnIndexCacheFind(&caches, index);

	refresh(index, cache);
	/* The relation was opened anew, maybe, since the last call. */
	cache->centroids.index = index;
	return cache;
}

/*
 * The same as the backend remembers it, without a look at the index if it does.
 */
AnnIvfCache *
AnnIvfCacheRecall(Relation index)
{
	AnnIvfCache *cache = (AnnIvfCache *) AnnIndexCacheFind(&caches, index);

	if (!cache->base.loaded)
		refresh(index, cache);
	cache->centroids.index = index;
	return cache;
}
