/*
 * ivfflat_value.c
 *	  An SQL value as an entry: its list, its stored form and its code.
 */
#include "postgres.h"

#include "ivfflat/ivfflat.h"

/*
 * The point as float[dim] in the space of the centroids; bit strings become
 * vectors of zeros and ones, whose squared distance is Hamming's.  palloc'd, or the
 * point's own.
 */
float *
AnnIvfDense(const AnnSpace *space, const AnnPoint *point)
{
	int			dim = space->refine.dim;
	float	   *dense;

	if (point->dense != NULL)
		return point->dense;
	dense = palloc(mul_size(sizeof(float), dim));
	for (int i = 0; i < dim; i++)
		dense[i] = ((const uint8 *) point->stored)[i / 8] >> (7 - i % 8) & 1;
	if (space->rotated)
		AnnRotate(dense, dense, dim);
	return dense;
}

/*
 * A vector as stored, as float[dim] in that space.
 */
void
AnnIvfDecode(const AnnSpace *space, const char *stored, float *dense)
{
	AnnPoint	point = {0};
	float	   *copy;

	if (AnnSpaceIsDense(space))
	{
		AnnSpaceDecode(space, stored, dense);
		return;
	}
	point.stored = unconstify(char *, stored);
	copy = AnnIvfDense(space, &point);
	memcpy(dense, copy, sizeof(float) * space->refine.dim);
	pfree(copy);
}

/*
 * What a list stores for a vector of the index space, which is overwritten.
 * palloc's in CurrentMemoryContext; `stored` becomes part of the result.
 */
void
AnnIvfFormInList(const AnnIvfFormer *former, uint32 list, float *dense, const char *stored, AnnIvfValue *result)
{
	const AnnIvfMetaPageData *meta = former->meta;
	int			dim = (int) meta->layout.dim;

	memset(result, 0, sizeof(*result));
	result->list = list;
	result->stored = stored;
	if (AnnIvfHasCodes(&meta->layout))
	{
		float	   *scratch = palloc(mul_size(sizeof(float), dim));
		const float *centroid = AnnIvfCentroid(former->centroids, result->list, scratch);
		float		r_dot_c = 0;

		for (int i = 0; i < dim; i++)
			dense[i] -= centroid[i];
		if (meta->layout.metric == ANN_METRIC_IP)
			r_dot_c = ann_kernels.ip_f32(dense, centroid, dim);
		result->code = palloc0(meta->layout.code_size);
		AnnEncode(&meta->code, dense, r_dot_c, result->code, &result->factors);
		result->top_factors = result->factors;
		if (meta->code.planes > 1)
		{
			/* Its code is the uppermost plane of the other. */
			AnnCodeParams top = meta->code;

			top.planes = 1;
			AnnEncode(&top, dense, r_dot_c, palloc(meta->layout.plane_size), &result->top_factors);
		}
	}
}

/*
 * The same for the list of the nearest centroid.
 */
void
AnnIvfFormPlaced(const AnnIvfFormer *former, float *dense, const char *stored, AnnIvfValue *result)
{
	uint32		list = AnnIvfNearest(former->centroids, dense, palloc(AnnIvfNearestScratch(former->centroids)));

	AnnIvfFormInList(former, list, dense, stored, result);
}

/*
 * The key of an entry with these included columns.  Calls their hash function: not under a page's lock.
 */
AnnIvfKey
AnnIvfKeyOf(const AnnIvfLayout *layout, AnnAttributes *attributes, const char *area)
{
	if (layout->key_size == 0)
		return 0;
	if (!OidIsValid(attributes->hash.fn_oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("the first included column's type has lost the hash function that it had when the index was made"),
				 errhint("Please REINDEX the index.")));
	return (AnnIvfKey) AnnAttributesKey(attributes, area);
}

/*
 * What the index stores for a tuple's columns.  palloc's in CurrentMemoryContext.  Raises
 * ERRCODE_DATA_EXCEPTION if the dimensions are not the index's.
 */
void
AnnIvfFormValue(const AnnIvfFormer *former, AnnAttributes *attributes, const Datum *values, const bool *isnull,
				AnnIvfValue *result)
{
	AnnPoint	point;

	memset(result, 0, sizeof(*result));
	if (isnull[0])
	{
		result->list = AnnIvfNullList(former->meta);
		return;
	}
	AnnSpacePlacePoint(former->space, values[0], &point);
	if (point.unplaced)
		result->list = AnnIvfZeroList(former->meta);
	else
	{
		AnnIvfFormPlaced(former, AnnIvfDense(former->space, &point), point.stored, result);
		result->attributes = AnnAttributesForm(attributes, values, isnull);
		result->key = AnnIvfKeyOf(&former->meta->layout, attributes, result->attributes);
	}
}

/* Where the factors of an entry's uppermost plane are: the first of them, and so the others. */
static AnnHalf *
topFactors(const AnnIvfShape *shape, Page page, int entry)
{
	return (AnnHalf *) (AnnPageRaw(page) + shape->factors) + entry;
}

/*
 * Writes an entry's bytes.
 */
void
AnnIvfSetEntry(const AnnIvfMetaPageData *meta, const AnnIvfShape *shape, Page page, int entry,
			   const ItemPointerData *tid, const AnnIvfValue *value)
{
	char	   *raw = AnnPageRaw(page);

	AnnIvfClearEntry(shape, page, entry);
	*AnnIvfTidOf(page, shape, entry) = *tid;
	if (shape->key_size > 0)
		AnnIvfKeysOf(page, shape)[entry] = value->key;
	if (shape->has_codes)
	{
		AnnHalf		halves[3];

		AnnFactorsToHalf(&meta->code, &value->top_factors, halves);
		for (int i = 0; i < 3; i++)
			topFactors(shape, page, entry)[i * shape->entries] = halves[i];
		memcpy(raw + shape->top + (Size) entry * shape->plane_size, value->code + shape->low_size, shape->plane_size);
		if (shape->low_size > 0)
		{
			AnnFactorsToHalf(&meta->code, &value->factors, halves);
			memcpy(raw + shape->fine + (Size) entry * 2 * sizeof(AnnHalf), halves + 1, 2 * sizeof(AnnHalf));
			memcpy(raw + shape->low + (Size) entry * shape->low_size, value->code, shape->low_size);
		}
	}
	if (shape->attribute_size > 0)
		memcpy(AnnIvfAttributesOf(page, shape, entry), value->attributes, meta->layout.attribute_size);
}

/*
 * Frees an entry: zeroes in all columns.
 */
void
AnnIvfClearEntry(const AnnIvfShape *shape, Page page, int entry)
{
	char	   *raw = AnnPageRaw(page);

	memset(AnnIvfTidOf(page, shape, entry), 0, sizeof(ItemPointerData));
	if (shape->key_size > 0)
		AnnIvfKeysOf(page, shape)[entry] = 0;
	if (shape->has_codes)
	{
		for (int i = 0; i < 3; i++)
			topFactors(shape, page, entry)[i * shape->entries] = 0;
		memset(raw + shape->top + (Size) entry * shape->plane_size, 0, shape->plane_size);
	}
	if (shape->low_size > 0)
	{
		memset(raw + shape->fine + (Size) entry * 2 * sizeof(AnnHalf), 0, 2 * sizeof(AnnHalf));
		memset(raw + shape->low + (Size) entry * shape->low_size, 0, shape->low_size);
	}
	if (shape->attribute_size > 0)
		memset(AnnIvfAttributesOf(page, shape, entry), 0, shape->attribute_size);
}

/*
 * The factors of an entry's uppermost plane.
 */
void
AnnIvfTopFactors(const AnnIvfMetaPageData *meta, const AnnIvfShape *shape, Page page, int entry,
				 AnnCodeFactors *factors)
{
	AnnHalf		halves[3];

	for (int i = 0; i < 3; i++)
		halves[i] = topFactors(shape, page, entry)[i * shape->entries];
	AnnFactorsFromHalf(&meta->code, halves, factors);
}
