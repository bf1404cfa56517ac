/*
 * sparsevec_ops.c
 *	  Distances, norms, parts and comparison of sparsevec.
 */
#include "postgres.h"

#include "types/sparsevec.h"

#include "common/hashfn.h"
#include "utils/float.h"

/* From this ratio of lengths on, the shorter vector's indices are searched for in the longer one. */
#define GALLOP_RATIO 16

static void
check_same_dim(const AnnSparseVector *a, const AnnSparseVector *b)
{
	if (unlikely(a->dim != b->dim))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("different sparsevec dimensions %d and %d", a->dim, b->dim)));
}

/* The dim of a sparsevec; reads no more than the head of a TOASTed one. */
int
AnnDatumDim32(Datum sparse)
{
	struct varlena *v = (struct varlena *) DatumGetPointer(sparse);

	if (VARATT_IS_EXTENDED(v))
		v = PG_DETOAST_DATUM_SLICE(sparse, 0, offsetof(AnnSparseVector, indices) - VARHDRSZ);
	return ((AnnSparseVector *) v)->dim;
}

/*
 * The first position >= from whose index is >= index, nnz if there is none.
 * Fast when it is near from: steps double before the interval is halved.
 */
static int
lowerBound(const AnnSparseVector *v, int from, int32 index)
{
	int			low = from;
	int			high = from;
	int			step = 1;

	/* Invariant: everything before low is < index; high is nnz or >= index at the end. */
	while (high < v->nnz && v->indices[high] < index)
	{
		low = high + 1;
		high += step;
		step *= 2;
	}
	high = Min(high, v->nnz);
	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (v->indices[middle] < index)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

typedef float (*SparseTerm) (float a, float b);

/* The sum of term over all indices that either vector has; term is a constant in every call. */
static pg_attribute_always_inline float
sum_of_union(const AnnSparseVector *a, const AnnSparseVector *b, SparseTerm term)
{
	const float *x = AnnSparseValues(a);
	const float *y = AnnSparseValues(b);
	float		sum = 0;
	int			i = 0;
	int			j = 0;

	/* Which vector goes on is as good as random: no branches. */
	while (i < a->nnz && j < b->nnz)
	{
		int			in_a = a->indices[i] <= b->indices[j];
		int			in_b = b->indices[j] <= a->indices[i];

		sum += term(in_a ? x[i] : 0, in_b ? y[j] : 0);
		i += in_a;
		j += in_b;
	}
	for (; i < a->nnz; i++)
		sum += term(x[i], 0);
	for (; j < b->nnz; j++)
		sum += term(0, y[j]);
	return sum;
}

static inline float
squared_difference(float a, float b)
{
	return (a - b) * (a - b);
}

static inline float
absolute_difference(float a, float b)
{
	return fabsf(a - b);
}

/* The sums below expect vectors of equal dimensions. */

float
AnnSparseL2Squared(const AnnSparseVector *a, const AnnSparseVector *b)
{
	return sum_of_union(a, b, squared_difference);
}

float
AnnSparseL1(const AnnSparseVector *a, const AnnSparseVector *b)
{
	return sum_of_union(a, b, absolute_difference);
}

float
AnnSparseInnerProduct(const AnnSparseVector *a, const AnnSparseVector *b)
{
	const float *x;
	const float *y;
	float		sum = 0;
	int			i = 0;
	int			j = 0;

	if (a->nnz > b->nnz)
	{
		const AnnSparseVector *swap = a;

		a = b;
		b = swap;
	}
	x = AnnSparseValues(a);
	y = AnnSparseValues(b);

	if (b->nnz / GALLOP_RATIO > a->nnz)
	{
		for (; i < a->nnz; i++)
		{
			j = lowerBound(b, j, a->indices[i]);
			if (j == b->nnz)
				break;
			if (b->indices[j] == a->indices[i])
				sum += x[i] * y[j];
		}
		return sum;
	}
	while (i < a->nnz && j < b->nnz)
	{
		int32		index_a = a->indices[i];
		int32		index_b = b->indices[j];

		sum += index_a == index_b ? x[i] * y[j] : 0;
		i += index_a <= index_b;
		j += index_b <= index_a;
	}
	return sum;
}

double
AnnSparseCosineDistance(const AnnSparseVector *a, const AnnSparseVector *b)
{
	AnnCosineSums sums;

	sums.ab = AnnSparseInnerProduct(a, b);
	sums.aa = ann_kernels.ip_f32(AnnSparseValues(a), AnnSparseValues(a), a->nnz);
	sums.bb = ann_kernels.ip_f32(AnnSparseValues(b), AnnSparseValues(b), b->nnz);
	return AnnCosineDistance(sums);
}

PG_FUNCTION_INFO_V1(ann_sparsevec_l2_distance);
Datum
ann_sparsevec_l2_distance(PG_FUNCTION_ARGS)
{
	const AnnSparseVector *a = AnnGetSparseVectorArg(fcinfo, 0);
	const AnnSparseVector *b = AnnGetSparseVectorArg(fcinfo, 1);

	check_same_dim(a, b);
	PG_RETURN_FLOAT8(sqrt((double) AnnSparseL2Squared(a, b)));
}

PG_FUNCTION_INFO_V1(ann_sparsevec_l2_squared_distance);
Datum
ann_sparsevec_l2_squared_distance(PG_FUNCTION_ARGS)
{
	const AnnSparseVector *a = AnnGetSparseVectorArg(fcinfo, 0);
	const AnnSparseVector *b = AnnGetSparseVectorArg(fcinfo, 1);

	check_same_dim(a, b);
	PG_RETURN_FLOAT8((double) AnnSparseL2Squared(a, b));
}

PG_FUNCTION_INFO_V1(ann_sparsevec_inner_product);
Datum
ann_sparsevec_inner_product(PG_FUNCTION_ARGS)
{
	const AnnSparseVector *a = AnnGetSparseVectorArg(fcinfo, 0);
	const AnnSparseVector *b = AnnGetSparseVectorArg(fcinfo, 1);

	check_same_dim(a, b);
	PG_RETURN_FLOAT8((double) AnnSparseInnerProduct(a, b));
}

PG_FUNCTION_INFO_V1(ann_sparsevec_negative_inner_product);
Datum
ann_sparsevec_negative_inner_product(PG_FUNCTION_ARGS)
{
	const AnnSparseVector *a = AnnGetSparseVectorArg(fcinfo, 0);
	const AnnSparseVector *b = AnnGetSparseVectorArg(fcinfo, 1);

	check_same_dim(a, b);
	PG_RETURN_FLOAT8(-(double) AnnSparseInnerProduct(a, b));
}

PG_FUNCTION_INFO_V1(ann_sparsevec_cosine_distance);
Datum
ann_sparsevec_cosine_distance(PG_FUNCTION_ARGS)
{
	const AnnSparseVector *a = AnnGetSparseVectorArg(fcinfo, 0);
	const AnnSparseVector *b = AnnGetSparseVectorArg(fcinfo, 1);

	check_same_dim(a, b);
	PG_RETURN_FLOAT8(AnnSparseCosineDistance(a, b));
}

PG_FUNCTION_INFO_V1(ann_sparsevec_l1_distance);
Datum
ann_sparsevec_l1_distance(PG_FUNCTION_ARGS)
{
	const AnnSparseVector *a = AnnGetSparseVectorArg(fcinfo, 0);
	const AnnSparseVector *b = AnnGetSparseVectorArg(fcinfo, 1);

	check_same_dim(a, b);
	PG_RETURN_FLOAT8((double) AnnSparseL1(a, b));
}

PG_FUNCTION_INFO_V1(ann_sparsevec_spherical_distance);
Datum
ann_sparsevec_spherical_distance(PG_FUNCTION_ARGS)
{
	const AnnSparseVector *a = AnnGetSparseVectorArg(fcinfo, 0);
	const AnnSparseVector *b = AnnGetSparseVectorArg(fcinfo, 1);

	check_same_dim(a, b);
	PG_RETURN_FLOAT8(AnnSphericalDistance((double) AnnSparseInnerProduct(a, b)));
}

PG_FUNCTION_INFO_V1(ann_sparsevec_dims);
Datum
ann_sparsevec_dims(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(AnnDatumDim32(PG_GETARG_DATUM(0)));
}

static double
sparse_norm(const AnnSparseVector *v)
{
	return sqrt(AnnSumOfSquares(AnnSparseValues(v), v->nnz));
}

PG_FUNCTION_INFO_V1(ann_sparsevec_norm);
Datum
ann_sparsevec_norm(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(sparse_norm(DatumGetAnnSparseVectorP(PG_GETARG_DATUM(0))));
}

/* A vector of length 1; a vector of zeros stays as it is. */
PG_FUNCTION_INFO_V1(ann_sparsevec_l2_normalize);
Datum
ann_sparsevec_l2_normalize(PG_FUNCTION_ARGS)
{
	AnnSparseVector *v = DatumGetAnnSparseVectorP(PG_GETARG_DATUM(0));
	const float *x = AnnSparseValues(v);
	double		norm = sparse_norm(v);
	AnnSparseVector *result;
	int			nnz = 0;

	/* What becomes zero goes. */
	for (int i = 0; i < v->nnz; i++)
		nnz += ((float) (x[i] / norm) != 0);
	result = AnnNewSparseVector(v->dim, nnz);
	for (int i = 0, j = 0; i < v->nnz; i++)
	{
		float		value = (float) (x[i] / norm);

		if (value != 0)
		{
			result->indices[j] = v->indices[i];
			AnnSparseValues(result)[j] = value;
			j++;
		}
	}
	PG_RETURN_POINTER(result);
}

/*
 * subvector(v, start, count): dimensions start to start + count - 1, counted
 * from 1, as far as they exist.
 */
PG_FUNCTION_INFO_V1(ann_sparsevec_subvector);
Datum
ann_sparsevec_subvector(PG_FUNCTION_ARGS)
{
	AnnSparseVector *v = DatumGetAnnSparseVectorP(PG_GETARG_DATUM(0));
	int64		start = PG_GETARG_INT32(1);
	int64		end = start + PG_GETARG_INT32(2);
	int			first;
	int			last;
	AnnSparseVector *result;

	start = Max(start, 1);
	end = Min(end, (int64) v->dim + 1);
	if (start >= end)
		AnnCheckDim(0, ANN_SPARSE_MAX_DIM, "sparsevec");
	first = lowerBound(v, 0, (int32) start - 1);
	last = lowerBound(v, first, (int32) end - 1);

	result = AnnNewSparseVector((int) (end - start), last - first);
	for (int i = first; i < last; i++)
		result->indices[i - first] = v->indices[i] - (int32) (start - 1);
	memcpy(AnnSparseValues(result), AnnSparseValues(v) + first, sizeof(float) * (last - first));
	PG_RETURN_POINTER(result);
}

/* One bit per dimension: whether its element is positive. */
PG_FUNCTION_INFO_V1(ann_sparsevec_binary_quantize);
Datum
ann_sparsevec_binary_quantize(PG_FUNCTION_ARGS)
{
	AnnSparseVector *v = DatumGetAnnSparseVectorP(PG_GETARG_DATUM(0));
	int			size = VARBITTOTALLEN(v->dim);
	VarBit	   *result = palloc0(size);

	SET_VARSIZE(result, size);
	VARBITLEN(result) = v->dim;
	for (int i = 0; i < v->nnz; i++)
	{
		int32		index = v->indices[i];

		if (AnnSparseValues(v)[i] > 0)
			VARBITS(result)[index / 8] |= 1 << (7 - index % 8);
	}
	PG_RETURN_VARBIT_P(result);
}

/* Compares as if the zeros were there: by elements, then by dimensions. */
static int
sparse_compare(const AnnSparseVector *a, const AnnSparseVector *b)
{
	const float *x = AnnSparseValues(a);
	const float *y = AnnSparseValues(b);

	for (int i = 0; i < a->nnz || i < b->nnz; i++)
	{
		/* The two agree before position i: the next element differs where the smaller index is. */
		int32		index_a = i < a->nnz ? a->indices[i] : PG_INT32_MAX;
		int32		index_b = i < b->nnz ? b->indices[i] : PG_INT32_MAX;
		float		value_a = index_a <= index_b ? x[i] : 0;
		float		value_b = index_b <= index_a ? y[i] : 0;

		if (Min(index_a, index_b) >= Min(a->dim, b->dim))
			break;
		if (value_a != value_b)
			return value_a < value_b ? -1 : 1;
	}
	return (a->dim > b->dim) - (a->dim < b->dim);
}

/* Compares the arguments; frees what was detoasted, as B-trees expect. */
static int
compare_args(FunctionCallInfo fcinfo)
{
	AnnSparseVector *a = DatumGetAnnSparseVectorP(PG_GETARG_DATUM(0));
	AnnSparseVector *b = DatumGetAnnSparseVectorP(PG_GETARG_DATUM(1));
	int			order = sparse_compare(a, b);

	PG_FREE_IF_COPY(a, 0);
	PG_FREE_IF_COPY(b, 1);
	return order;
}

PG_FUNCTION_INFO_V1(ann_sparsevec_cmp);
Datum
ann_sparsevec_cmp(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(compare_args(fcinfo));
}

PG_FUNCTION_INFO_V1(ann_sparsevec_lt);
Datum
ann_sparsevec_lt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_args(fcinfo) < 0);
}

PG_FUNCTION_INFO_V1(ann_sparsevec_le);
Datum
ann_sparsevec_le(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_args(fcinfo) <= 0);
}

PG_FUNCTION_INFO_V1(ann_sparsevec_eq);
Datum
ann_sparsevec_eq(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_args(fcinfo) == 0);
}

PG_FUNCTION_INFO_V1(ann_sparsevec_ne);
Datum
ann_sparsevec_ne(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_args(fcinfo) != 0);
}

PG_FUNCTION_INFO_V1(ann_sparsevec_ge);
Datum
ann_sparsevec_ge(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_args(fcinfo) >= 0);
}

PG_FUNCTION_INFO_V1(ann_sparsevec_gt);
Datum
ann_sparsevec_gt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_args(fcinfo) > 0);
}

/* There are no zeros, so equal values are equal bytes. */
static uint64
hash_arg(FunctionCallInfo fcinfo, uint64 seed)
{
	AnnSparseVector *v = DatumGetAnnSparseVectorP(PG_GETARG_DATUM(0));
	uint64		hash = hash_bytes_extended((const unsigned char *) &v->dim,
										   (int) (VARSIZE(v) - offsetof(AnnSparseVector, dim)), seed);

	PG_FREE_IF_COPY(v, 0);
	return hash;
}

PG_FUNCTION_INFO_V1(ann_sparsevec_hash);
Datum
ann_sparsevec_hash(PG_FUNCTION_ARGS)
{
	PG_RETURN_UINT32((uint32) hash_arg(fcinfo, 0));
}

PG_FUNCTION_INFO_V1(ann_sparsevec_hash_extended);
Datum
ann_sparsevec_hash_extended(PG_FUNCTION_ARGS)
{
	PG_RETURN_UINT64(hash_arg(fcinfo, PG_GETARG_INT64(1)));
}
