/*
 * dense_ops_template.h
 *	  Distances, arithmetic and comparison of a dense type; see dense.h.
 */

/* Elements are processed as float4, so many at a time. */
#define DENSE_CHUNK 512

static void
check_same_dim(const DENSE_VECTOR *a, const DENSE_VECTOR *b)
{
	if (unlikely(a->dim != b->dim))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("different %s dimensions %d and %d", DENSE_NAME, a->dim, b->dim)));
}

/* Distances */

DENSE_FUNCTION(l2_distance)
{
	const DENSE_VECTOR *a = DENSE_GETDISTARG(0);
	const DENSE_VECTOR *b = DENSE_GETDISTARG(1);

	check_same_dim(a, b);
	PG_RETURN_FLOAT8(sqrt((double) DENSE_KERNEL(l2sq) (a->x, b->x, a->dim)));
}

DENSE_FUNCTION(l2_squared_distance)
{
	const DENSE_VECTOR *a = DENSE_GETDISTARG(0);
	const DENSE_VECTOR *b = DENSE_GETDISTARG(1);

	check_same_dim(a, b);
	PG_RETURN_FLOAT8((double) DENSE_KERNEL(l2sq) (a->x, b->x, a->dim));
}

DENSE_FUNCTION(inner_product)
{
	const DENSE_VECTOR *a = DENSE_GETDISTARG(0);
	const DENSE_VECTOR *b = DENSE_GETDISTARG(1);

	check_same_dim(a, b);
	PG_RETURN_FLOAT8((double) DENSE_KERNEL(ip) (a->x, b->x, a->dim));
}

DENSE_FUNCTION(negative_inner_product)
{
	const DENSE_VECTOR *a = DENSE_GETDISTARG(0);
	const DENSE_VECTOR *b = DENSE_GETDISTARG(1);

	check_same_dim(a, b);
	PG_RETURN_FLOAT8(-(double) DENSE_KERNEL(ip) (a->x, b->x, a->dim));
}

DENSE_FUNCTION(cosine_distance)
{
	const DENSE_VECTOR *a = DENSE_GETDISTARG(0);
	const DENSE_VECTOR *b = DENSE_GETDISTARG(1);

	check_same_dim(a, b);
	PG_RETURN_FLOAT8(AnnCosineDistance(DENSE_KERNEL(cosine) (a->x, b->x, a->dim)));
}

DENSE_FUNCTION(l1_distance)
{
	const DENSE_VECTOR *a = DENSE_GETDISTARG(0);
	const DENSE_VECTOR *b = DENSE_GETDISTARG(1);

	check_same_dim(a, b);
	PG_RETURN_FLOAT8((double) DENSE_KERNEL(l1) (a->x, b->x, a->dim));
}

DENSE_FUNCTION(spherical_distance)
{
	const DENSE_VECTOR *a = DENSE_GETDISTARG(0);
	const DENSE_VECTOR *b = DENSE_GETDISTARG(1);

	check_same_dim(a, b);
	PG_RETURN_FLOAT8(AnnSphericalDistance((double) DENSE_KERNEL(ip) (a->x, b->x, a->dim)));
}

/* Dimensions and norms */

DENSE_FUNCTION(dims)
{
	PG_RETURN_INT32(AnnDatumDim16(PG_GETARG_DATUM(0)));
}

static double
dense_norm(const DENSE_VECTOR *v)
{
	float		buffer[DENSE_CHUNK];
	double		sum = 0;

	for (Size i = 0; i < v->dim; i += DENSE_CHUNK)
	{
		Size		n = Min(DENSE_CHUNK, v->dim - i);

		sum += AnnSumOfSquares(DenseLoad(v->x + i, buffer, n), n);
	}
	return sqrt(sum);
}

DENSE_FUNCTION(norm)
{
	PG_RETURN_FLOAT8(dense_norm(DENSE_GETARG(0)));
}

/* A vector of length 1; a vector of zeros stays as it is. */
DENSE_FUNCTION(l2_normalize)
{
	const DENSE_VECTOR *v = DENSE_GETARG(0);
	DENSE_VECTOR *result = DenseNew(v->dim);
	double		norm = dense_norm(v);
	float		buffer[DENSE_CHUNK];
	float		quotient[DENSE_CHUNK];

	for (Size i = 0; i < v->dim; i += DENSE_CHUNK)
	{
		Size		n = Min(DENSE_CHUNK, v->dim - i);
		const float *x = DenseLoad(v->x + i, buffer, n);

		for (Size j = 0; j < n; j++)
			quotient[j] = norm > 0 ? (float) (x[j] / norm) : 0;
		DenseStore(quotient, result->x + i, n);
	}
	PG_RETURN_POINTER(result);
}

/* Arithmetic */

typedef enum DenseOperator
{
	DENSE_ADD,
	DENSE_SUBTRACT,
	DENSE_MULTIPLY
} DenseOperator;

/* a op b, element by element; op is a constant in every call. */
static inline DENSE_VECTOR *
dense_arithmetic(const DENSE_VECTOR *a, const DENSE_VECTOR *b, DenseOperator op)
{
	DENSE_VECTOR *result;
	float		buffer_a[DENSE_CHUNK];
	float		buffer_b[DENSE_CHUNK];
	float		buffer_r[DENSE_CHUNK];

	check_same_dim(a, b);
	result = DenseNew(a->dim);
	for (Size i = 0; i < a->dim; i += DENSE_CHUNK)
	{
		Size		n = Min(DENSE_CHUNK, a->dim - i);
		const float *x = DenseLoad(a->x + i, buffer_a, n);
		const float *y = DenseLoad(b->x + i, buffer_b, n);
		int			overflow = 0;
		int			underflow = 0;

		for (Size j = 0; j < n; j++)
			buffer_r[j] = op == DENSE_ADD ? x[j] + y[j] :
				op == DENSE_SUBTRACT ? x[j] - y[j] : x[j] * y[j];
		DenseStore(buffer_r, result->x + i, n);

		for (Size j = 0; j < n; j++)
		{
			float		r = DenseToFloat(result->x[i + j]);

			overflow |= (fabsf(r) > FLT_MAX);
			if (op == DENSE_MULTIPLY)
				underflow |= (r == 0) & (x[j] != 0) & (y[j] != 0);
		}
		if (unlikely(overflow))
			float_overflow_error();
		if (unlikely(underflow))
			float_underflow_error();
	}
	return result;
}

DENSE_FUNCTION(add)
{
	PG_RETURN_POINTER(dense_arithmetic(DENSE_GETARG(0), DENSE_GETARG(1), DENSE_ADD));
}

DENSE_FUNCTION(sub)
{
	PG_RETURN_POINTER(dense_arithmetic(DENSE_GETARG(0), DENSE_GETARG(1), DENSE_SUBTRACT));
}

DENSE_FUNCTION(mul)
{
	PG_RETURN_POINTER(dense_arithmetic(DENSE_GETARG(0), DENSE_GETARG(1), DENSE_MULTIPLY));
}

DENSE_FUNCTION(concat)
{
	const DENSE_VECTOR *a = DENSE_GETARG(0);
	const DENSE_VECTOR *b = DENSE_GETARG(1);
	DENSE_VECTOR *result;

	AnnCheckDim(a->dim + b->dim, ANN_MAX_DIM, DENSE_NAME);
	result = DenseNew(a->dim + b->dim);
	memcpy(result->x, a->x, sizeof(DENSE_ELEMENT) * a->dim);
	memcpy(result->x + a->dim, b->x, sizeof(DENSE_ELEMENT) * b->dim);
	PG_RETURN_POINTER(result);
}

/*
 * subvector(v, start, count): elements start to start + count - 1, counted
 * from 1, as far as they exist.
 */
DENSE_FUNCTION(subvector)
{
	const DENSE_VECTOR *v = DENSE_GETARG(0);
	int64		start = PG_GETARG_INT32(1);
	int64		end = start + PG_GETARG_INT32(2);
	DENSE_VECTOR *result;

	start = Max(start, 1);
	end = Min(end, (int64) v->dim + 1);
	if (start >= end)
		AnnCheckDim(0, ANN_MAX_DIM, DENSE_NAME);
	result = DenseNew((int) (end - start));
	memcpy(result->x, v->x + start - 1, sizeof(DENSE_ELEMENT) * (end - start));
	PG_RETURN_POINTER(result);
}

/* One bit per element: whether it is positive. */
DENSE_FUNCTION(binary_quantize)
{
	const DENSE_VECTOR *v = DENSE_GETARG(0);
	int			size = VARBITTOTALLEN(v->dim);
	VarBit	   *result = palloc0(size);
	bits8	   *bytes;

	SET_VARSIZE(result, size);
	VARBITLEN(result) = v->dim;
	bytes = VARBITS(result);
	for (int i = 0; i < v->dim; i += 8)
	{
		int			n = Min(8, v->dim - i);
		int			byte = 0;

		for (int j = 0; j < n; j++)
			byte |= (DenseCompare(v->x[i + j], 0) > 0) << (7 - j);
		bytes[i / 8] = (bits8) byte;
	}
	PG_RETURN_VARBIT_P(result);
}

/* Comparison: by elements, then by dimensions; -0 equals 0 */

static int
dense_compare(const DENSE_VECTOR *a, const DENSE_VECTOR *b)
{
	int			dim = Min(a->dim, b->dim);

	/* Equal bytes are common where rows are grouped or joined, and found fast. */
	if (a->dim == b->dim && memcmp(a->x, b->x, sizeof(DENSE_ELEMENT) * (Size) dim) == 0)
		return 0;
	for (int i = 0; i < dim; i++)
	{
		int			order = DenseCompare(a->x[i], b->x[i]);

		if (order != 0)
			return order;
	}
	return (a->dim > b->dim) - (a->dim < b->dim);
}

/* Compares the arguments; frees what was detoasted, as B-trees expect. */
static int
compare_args(FunctionCallInfo fcinfo)
{
	DENSE_VECTOR *a = DENSE_GETARG(0);
	DENSE_VECTOR *b = DENSE_GETARG(1);
	int			order = dense_compare(a, b);

	PG_FREE_IF_COPY(a, 0);
	PG_FREE_IF_COPY(b, 1);
	return order;
}

DENSE_FUNCTION(cmp)
{
	PG_RETURN_INT32(compare_args(fcinfo));
}

DENSE_FUNCTION(lt)
{
	PG_RETURN_BOOL(compare_args(fcinfo) < 0);
}

DENSE_FUNCTION(le)
{
	PG_RETURN_BOOL(compare_args(fcinfo) <= 0);
}

DENSE_FUNCTION(eq)
{
	PG_RETURN_BOOL(compare_args(fcinfo) == 0);
}

DENSE_FUNCTION(ne)
{
	PG_RETURN_BOOL(compare_args(fcinfo) != 0);
}

DENSE_FUNCTION(ge)
{
	PG_RETURN_BOOL(compare_args(fcinfo) >= 0);
}

DENSE_FUNCTION(gt)
{
	PG_RETURN_BOOL(compare_args(fcinfo) > 0);
}

/* Hash of the elements as float4 with -0 as 0, so that equal values agree. */
static uint64
hash_arg(FunctionCallInfo fcinfo, uint64 seed)
{
	DENSE_VECTOR *v = DENSE_GETARG(0);
	float		buffer[DENSE_CHUNK];
	uint64		hash = seed;

	for (Size i = 0; i < v->dim; i += DENSE_CHUNK)
	{
		Size		n = Min(DENSE_CHUNK, v->dim - i);
		const float *x = DenseLoad(v->x + i, buffer, n);

		for (Size j = 0; j < n; j++)
			buffer[j] = x[j] + 0.0f;
		hash = hash_bytes_extended((const unsigned char *) buffer, sizeof(float) * n, hash);
	}
	PG_FREE_IF_COPY(v, 0);
	return hash;
}

DENSE_FUNCTION(hash)
{
	PG_RETURN_UINT32((uint32) hash_arg(fcinfo, 0));
}

DENSE_FUNCTION(hash_extended)
{
	PG_RETURN_UINT64(hash_arg(fcinfo, PG_GETARG_INT64(1)));
}
