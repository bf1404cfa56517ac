/*
 * sparsevec_io.c
 *	  Text and binary input and output of sparsevec: "{1:1.5,3:2}/5", with
 *	  indices from 1 in text, from 0 in binary form.
 */
#include "postgres.h"

#include "types/sparsevec.h"

#include "common/shortest_dec.h"
#include "libpq/pqformat.h"
#include "types/number.h"
#include "utils/builtins.h"

typedef struct SparseElement
{
	int32		index;			/* from 1, as written */
	float		value;
} SparseElement;

static int
compare_elements(const void *a, const void *b)
{
	int32		x = ((const SparseElement *) a)->index;
	int32		y = ((const SparseElement *) b)->index;

	return (x > y) - (x < y);
}

/*
 * Reads an integer, with a sign perhaps, at *p and moves *p behind it; false if there
 * is none.  What does not fit saturates, far outside every limit.
 */
static bool
read_integer(const char **p, int32 *result)
{
	const char *s = *p;
	bool		negative = (*s == '-');
	int64		value = 0;

	if (*s == '-' || *s == '+')
		s++;
	if (!AnnIsDigit(*s))
		return false;
	for (; AnnIsDigit(*s); s++)
		value = Min(value * 10 + (*s - '0'), PG_INT32_MAX);
	*result = (int32) (negative ? -value : value);
	*p = s;
	return true;
}

PG_FUNCTION_INFO_V1(ann_sparsevec_in);
Datum
ann_sparsevec_in(PG_FUNCTION_ARGS)
{
	const char *literal = PG_GETARG_CSTRING(0);
	int32		typmod = PG_GETARG_INT32(2);
	Node	   *escontext = fcinfo->context;
	const char *p = AnnSkipSpace(literal);
	SparseElement *elements;
	int			capacity;
	int			position = 0;	/* elements read, zeros included */
	int			nnz = 0;
	bool		sorted = true;
	int32		dim;
	AnnSparseVector *result;

	if (*p != '{')
		AnnSyntaxError(escontext, "sparsevec", literal, "Vector contents must start with \"{\".");
	p = AnnSkipSpace(p + 1);

	/* An element takes at least four characters: 1:2, */
	capacity = Min(strlen(p) / 4 + 1, ANN_SPARSE_MAX_NNZ);
	elements = palloc(sizeof(SparseElement) * capacity);

	while (*p != '}' || position > 0)
	{
		const char *start;
		AnnNumberStatus status;
		int32		index;
		float		value;

		position++;
		p = AnnSkipSpace(p);
		if (!read_integer(&p, &index))
			AnnSyntaxError(escontext, "sparsevec", literal, "Element %d has no index.", position);
		p = AnnSkipSpace(p);
		if (*p != ':')
			AnnSyntaxError(escontext, "sparsevec", literal, "Expected \":\" after the index of element %d.", position);
		p = AnnSkipSpace(p + 1);

		start = p;
		status = AnnReadFloat(&p, &value);
		if (status == ANN_NUMBER_SYNTAX)
			AnnSyntaxError(escontext, "sparsevec", literal, "The value of element %d is not a number.", position);
		/* Underflow too: the element would vanish. */
		if (status != ANN_NUMBER_OK)
			AnnEreturn(escontext, (Datum) 0,
					   (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						errmsg("\"%s\" is out of range for type sparsevec", pnstrdup(start, p - start)),
						errdetail("The value is element %d.", position)));
		if (!AnnCheckElement(value, position, "sparsevec", escontext))
			return (Datum) 0;

		/* Zeros are not kept, whatever their index. */
		if (value != 0)
		{
			if (nnz == ANN_SPARSE_MAX_NNZ)
				AnnEreturn(escontext, (Datum) 0,
						   (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
							errmsg("sparsevec cannot have more than %d non-zero elements",
								   ANN_SPARSE_MAX_NNZ)));
			sorted &= (nnz == 0 || index > elements[nnz - 1].index);
			elements[nnz].index = index;
			elements[nnz].value = value;
			nnz++;
		}

		p = AnnSkipSpace(p);
		if (*p == '}')
			break;
		if (*p != ',')
			AnnSyntaxError(escontext, "sparsevec", literal, "Expected \",\" or \"}\" after element %d.", position);
		p++;
	}

	p = AnnSkipSpace(p + 1);
	if (*p != '/')
		AnnSyntaxError(escontext, "sparsevec", literal, "Expected \"/\" and the number of dimensions after the elements.");
	p = AnnSkipSpace(p + 1);
	if (!read_integer(&p, &dim))
		AnnSyntaxError(escontext, "sparsevec", literal, "Expected the number of dimensions after \"/\".");
	p = AnnSkipSpace(p);
	if (*p != '\0')
		AnnSyntaxError(escontext, "sparsevec", literal, "Junk after the number of dimensions.");
	if (dim < 1)
		AnnEreturn(escontext, (Datum) 0,
				   (errcode(ERRCODE_DATA_EXCEPTION),
					errmsg("sparsevec must have at least 1 dimension")));
	if (dim > ANN_SPARSE_MAX_DIM)
		AnnEreturn(escontext, (Datum) 0,
				   (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					errmsg("sparsevec cannot have more than %d dimensions", ANN_SPARSE_MAX_DIM)));
	if (!AnnCheckTypmod(typmod, dim, escontext))
		return (Datum) 0;

	if (!sorted)
		qsort(elements, nnz, sizeof(SparseElement), compare_elements);
	for (int i = 0; i < nnz; i++)
	{
		if (elements[i].index < 1 || elements[i].index > dim)
			AnnEreturn(escontext, (Datum) 0,
					   (errcode(ERRCODE_DATA_EXCEPTION),
						errmsg("sparsevec index out of bounds"),
						errdetail("Index %d is not between 1 and %d.", elements[i].index, dim)));
		if (i > 0 && elements[i].index == elements[i - 1].index)
			AnnEreturn(escontext, (Datum) 0,
					   (errcode(ERRCODE_DATA_EXCEPTION),
						errmsg("sparsevec indices must not contain duplicates"),
						errdetail("Index %d appears twice.", elements[i].index)));
	}

	result = AnnNewSparseVector(dim, nnz);
	for (int i = 0; i < nnz; i++)
	{
		result->indices[i] = elements[i].index - 1;
		AnnSparseValues(result)[i] = elements[i].value;
	}
	PG_RETURN_POINTER(result);
}

PG_FUNCTION_INFO_V1(ann_sparsevec_out);
Datum
ann_sparsevec_out(PG_FUNCTION_ARGS)
{
	AnnSparseVector *v = DatumGetAnnSparseVectorP(PG_GETARG_DATUM(0));
	const float *values = AnnSparseValues(v);

	/* An index has at most 10 digits; ":" follows it, the value has its separator. */
	char	   *text = palloc((Size) v->nnz * (11 + ANN_NUMBER_WIDTH) + sizeof("{}/1000000000"));
	char	   *p = text;

	*p++ = '{';
	for (int i = 0; i < v->nnz; i++)
	{
		if (i > 0)
			*p++ = ',';
		p += pg_ultoa_n((uint32) v->indices[i] + 1, p);
		*p++ = ':';
		p += float_to_shortest_decimal_bufn(values[i], p);
	}
	*p++ = '}';
	*p++ = '/';
	p += pg_ultoa_n((uint32) v->dim, p);
	*p = '\0';
	PG_RETURN_CSTRING(text);
}

PG_FUNCTION_INFO_V1(ann_sparsevec_typmod_in);
Datum
ann_sparsevec_typmod_in(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(AnnTypmodIn(PG_GETARG_ARRAYTYPE_P(0), "sparsevec", ANN_SPARSE_MAX_DIM));
}

/*
 * sparsevec_recv(internal, oid, integer): int32 dim, int32 nnz, int32 zero, nnz int32
 * indices, nnz float4 values, all in network byte order.
 */
PG_FUNCTION_INFO_V1(ann_sparsevec_recv);
Datum
ann_sparsevec_recv(PG_FUNCTION_ARGS)
{
	StringInfo	buf = (StringInfo) PG_GETARG_POINTER(0);
	int32		typmod = PG_GETARG_INT32(2);
	int32		dim;
	int32		nnz;
	int32		unused;
	Size		size;
	AnnSparseVector *result;
	float	   *values;

	AnnCheckMessage(buf, 3 * sizeof(int32), "sparsevec");
	dim = (int32) pq_getmsgint(buf, 4);
	nnz = (int32) pq_getmsgint(buf, 4);
	unused = (int32) pq_getmsgint(buf, 4);
	if (dim < 1)
		AnnInvalidBinary("sparsevec", "The number of dimensions is %d.", dim);
	AnnCheckDim(dim, ANN_SPARSE_MAX_DIM, "sparsevec");
	if (nnz < 0 || nnz > dim)
		AnnInvalidBinary("sparsevec", "There are %d non-zero elements in %d dimensions.", nnz, dim);
	if (nnz > ANN_SPARSE_MAX_NNZ)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("sparsevec cannot have more than %d non-zero elements", ANN_SPARSE_MAX_NNZ)));
	if (unused != 0)
		AnnInvalidBinary("sparsevec", "The reserved field is %d, not zero.", unused);
	size = (sizeof(int32) + sizeof(float)) * nnz;
	if (AnnMessageRest(buf) != size)
		AnnInvalidBinary("sparsevec", "%zu bytes follow the header, not %zu.", AnnMessageRest(buf), size);
	AnnCheckTypmod(typmod, dim, NULL);

	result = AnnNewSparseVector(dim, nnz);
	values = AnnSparseValues(result);
	for (int i = 0; i < nnz; i++)
	{
		int32		index = (int32) pq_getmsgint(buf, 4);

		if (index < 0 || index >= dim)
			AnnInvalidBinary("sparsevec", "Index %d is not between 0 and %d.", index, dim - 1);
		if (i > 0 && index <= result->indices[i - 1])
			AnnInvalidBinary("sparsevec", "Index %d follows index %d.", index, result->indices[i - 1]);
		result->indices[i] = index;
	}
	for (int i = 0; i < nnz; i++)
	{
		values[i] = pq_getmsgfloat4(buf);
		if (isnan(values[i]))
			AnnInvalidBinary("sparsevec", "Element %d is NaN.", i + 1);
		if (isinf(values[i]))
			AnnInvalidBinary("sparsevec", "Element %d is infinite.", i + 1);
		if (values[i] == 0)
			AnnInvalidBinary("sparsevec", "Element %d is zero.", i + 1);
	}
	PG_RETURN_POINTER(result);
}

PG_FUNCTION_INFO_V1(ann_sparsevec_send);
Datum
ann_sparsevec_send(PG_FUNCTION_ARGS)
{
	AnnSparseVector *v = DatumGetAnnSparseVectorP(PG_GETARG_DATUM(0));
	const float *values = AnnSparseValues(v);
	StringInfoData buf;

	pq_begintypsend(&buf);
	pq_sendint32(&buf, v->dim);
	pq_sendint32(&buf, v->nnz);
	pq_sendint32(&buf, v->unused);
	for (int i = 0; i < v->nnz; i++)
		pq_sendint32(&buf, v->indices[i]);
	for (int i = 0; i < v->nnz; i++)
		pq_sendfloat4(&buf, values[i]);
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}
