/*
 * shared.c
 *	  What vector, halfvec and sparsevec have in common: limits, type
 *	  modifiers, elements read from text, and arrays and JSON as sources.
 */
#include "postgres.h"

#include "types/shared.h"

#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "miscadmin.h"
#include "types/number.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

const double ann_powers_of_ten[ANN_MAX_POWER_OF_TEN + 1] = {
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9,
	1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19,
	1e20, 1e21, 1e22, 1e23, 1e24, 1e25, 1e26, 1e27, 1e28, 1e29,
	1e30, 1e31, 1e32, 1e33, 1e34, 1e35, 1e36, 1e37, 1e38, 1e39,
	1e40, 1e41, 1e42, 1e43, 1e44, 1e45, 1e46, 1e47, 1e48, 1e49,
	1e50, 1e51, 1e52, 1e53, 1e54, 1e55, 1e56, 1e57, 1e58, 1e59,
	1e60
};

/* AnnReadFloat for everything that strtof alone can read. */
AnnNumberStatus
AnnReadFloatSlow(const char **p, float *result)
{
	char	   *end;

	errno = 0;
	*result = strtof(*p, &end);
	if (end == *p)
		return ANN_NUMBER_SYNTAX;
	*p = end;
	if (errno == ERANGE && isinf(*result))
		return ANN_NUMBER_OVERFLOW;
	if (errno == ERANGE && *result == 0)
		return ANN_NUMBER_UNDERFLOW;
	return ANN_NUMBER_OK;
}

/* The type modifier of type(n), 1 <= n <= max_dim. */
int32
AnnTypmodIn(ArrayType *modifiers, const char *type, int max_dim)
{
	int			n;
	int32	   *typmods = ArrayGetIntegerTypmods(modifiers, &n);

	if (n != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid type modifier")));
	if (typmods[0] < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("dimensions for type %s must be at least 1", type)));
	if (typmods[0] > max_dim)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("dimensions for type %s cannot exceed %d", type, max_dim)));
	return typmods[0];
}

/* Raises an error unless 1 <= dim <= max_dim. */
void
AnnCheckDim(int dim, int max_dim, const char *type)
{
	if (dim < 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("%s must have at least 1 dimension", type)));
	if (dim > max_dim)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s cannot have more than %d dimensions", type, max_dim)));
}

/* Whether a value of dim dimensions fits the column; if not, an error, soft where escontext allows. */
bool
AnnCheckTypmod(int32 typmod, int dim, Node *escontext)
{
	if (typmod != -1 && typmod != dim)
		AnnEreturn(escontext, false,
				   (errcode(ERRCODE_DATA_EXCEPTION),
					errmsg("expected %d dimensions, not %d", typmod, dim)));
	return true;
}

/*
 * Whether a value may be stored.  If not, an error that names its position
 * (from 1), soft where escontext allows.
 */
bool
AnnCheckElement(float value, int position, const char *type, Node *escontext)
{
	if (unlikely(isnan(value)))
		AnnEreturn(escontext, false,
				   (errcode(ERRCODE_DATA_EXCEPTION),
					errmsg("NaN not allowed in %s", type),
					errdetail("Element %d is NaN.", position)));
	if (unlikely(isinf(value)))
		AnnEreturn(escontext, false,
				   (errcode(ERRCODE_DATA_EXCEPTION),
					errmsg("infinite value not allowed in %s", type),
					errdetail("Element %d is infinite.", position)));
	return true;
}

/* The dim of a vector or halfvec; reads no more than the head of a TOASTed one. */
int
AnnDatumDim16(Datum vector)
{
	struct varlena *v = (struct varlena *) DatumGetPointer(vector);

	if (VARATT_IS_EXTENDED(v))
		v = PG_DETOAST_DATUM_SLICE(vector, 0, offsetof(AnnVector, x) - VARHDRSZ);
	return ((AnnVector *) v)->dim;
}

/* Raises an error unless the message has this many bytes for the header. */
void
AnnCheckMessage(StringInfo buf, Size header, const char *type)
{
	if (AnnMessageRest(buf) < header)
		AnnInvalidBinary(type, "The header has %zu bytes, not %zu.", AnnMessageRest(buf), header);
}

/* Number of elements of an array that can become a vector; raises an error if it cannot. */
int
AnnArrayLength(ArrayType *array)
{
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("array must be 1-D")));
	if (array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("array must not contain nulls")));
	return ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
}

/*
 * The AnnArrayLength(array) elements of an array of integer, real, double
 * precision or numeric, rounded to float4; all are finite.
 */
void
AnnArrayToFloats(ArrayType *array, float *dst, const char *type)
{
	int			length = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));

	switch (ARR_ELEMTYPE(array))
	{
		case INT4OID:
			{
				const int32 *src = (const int32 *) ARR_DATA_PTR(array);

				for (int i = 0; i < length; i++)
					dst[i] = (float) src[i];
				return;
			}
		case FLOAT4OID:
			memcpy(dst, ARR_DATA_PTR(array), sizeof(float) * length);
			break;
		case FLOAT8OID:
			{
				const double *src = (const double *) ARR_DATA_PTR(array);

				for (int i = 0; i < length; i++)
				{
					dst[i] = (float) src[i];
					if (unlikely(isinf(dst[i]) && !isinf(src[i])))
						ereport(ERROR,
								(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
								 errmsg("\"%g\" is out of range for type %s", src[i], type),
								 errdetail("The value is element %d.", i + 1)));
				}
				break;
			}
		case NUMERICOID:
			{
				ArrayIterator iterator = array_create_iterator(array, 0, NULL);
				Datum		value;
				bool		isnull;

				for (int i = 0; array_iterate(iterator, &value, &isnull); i++)
					dst[i] = DatumGetFloat4(DirectFunctionCall1(numeric_float4, value));
				array_free_iterator(iterator);
				break;
			}
		default:
			elog(ERROR, "unsupported array element type %u", ARR_ELEMTYPE(array));
	}

	for (int i = 0; i < length; i++)
		AnnCheckElement(dst[i], i + 1, type, NULL);
}

/*
 * The numbers of a JSON array of 1 to max_dim elements, rounded to float4, in
 * palloc'd memory; all are finite.
 */
float *
AnnJsonbToFloats(Datum jsonb, int max_dim, const char *type, int *dim)
{
	Jsonb	   *json = DatumGetJsonbP(jsonb);
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	float	   *dst;
	int			n = 0;

	if (!JB_ROOT_IS_ARRAY(json) || JB_ROOT_IS_SCALAR(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot cast jsonb value to type %s", type),
				 errdetail("The value is not an array.")));

	AnnCheckDim(JB_ROOT_COUNT(json), max_dim, type);
	dst = palloc(mul_size(sizeof(float), JB_ROOT_COUNT(json)));
	iterator = JsonbIteratorInit(&json->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		char	   *text;
		const char *end;

		CHECK_FOR_INTERRUPTS();
		if (token != WJB_ELEM)
			continue;
		if (value.type != jbvNumeric)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("cannot cast jsonb value to type %s", type),
					 errdetail("Element %d of the array is not a number.", n + 1)));

		/* As from text; numeric_float4 would not let small values become zero. */
		end = text = numeric_normalize(value.val.numeric);
		if (AnnReadFloat(&end, &dst[n]) == ANN_NUMBER_OVERFLOW)
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("\"%s\" is out of range for type %s", text, type),
					 errdetail("The value is element %d.", n + 1)));
		pfree(text);
		n++;
	}
	*dim = n;
	return dst;
}

/* An array of length elements of a type of fixed size without padding, all zero bytes. */
ArrayType *
AnnNewArray(int length, Oid element_type, Size element_size)
{
	Size		size = add_size(ARR_OVERHEAD_NONULLS(1), mul_size(element_size, length));
	ArrayType  *array = palloc0(size);

	SET_VARSIZE(array, size);
	array->ndim = 1;
	array->elemtype = element_type;
	ARR_DIMS(array)[0] = length;
	ARR_LBOUND(array)[0] = 1;
	return array;
}

/*
 * An array of integer, real, double precision or numeric with length >= 1
 * elements.
 */
ArrayType *
AnnFloatsToArray(const float *src, int length, Oid element_type)
{
	ArrayType  *array;
	Datum	   *elements;

	switch (element_type)
	{
		case FLOAT4OID:
			array = AnnNewArray(length, element_type, sizeof(float));
			memcpy(ARR_DATA_PTR(array), src, sizeof(float) * length);
			return array;
		case FLOAT8OID:
			array = AnnNewArray(length, element_type, sizeof(double));
			for (int i = 0; i < length; i++)
				((double *) ARR_DATA_PTR(array))[i] = src[i];
			return array;
		case INT4OID:
			array = AnnNewArray(length, element_type, sizeof(int32));
			for (int i = 0; i < length; i++)
				((int32 *) ARR_DATA_PTR(array))[i] =
					DatumGetInt32(DirectFunctionCall1(ftoi4, Float4GetDatum(src[i])));
			return array;
		case NUMERICOID:
			elements = palloc(mul_size(sizeof(Datum), length));
			for (int i = 0; i < length; i++)
			{
				char		text[ANN_NUMBER_WIDTH];

				/* float4_numeric would keep six digits. */
				float_to_shortest_decimal_buf(src[i], text);
				elements[i] = DirectFunctionCall3(numeric_in, CStringGetDatum(text),
												  ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
			}
			return construct_array(elements, length, NUMERICOID, -1, false, TYPALIGN_INT);
		default:
			elog(ERROR, "unsupported array element type %u", element_type);
	}
	return NULL;
}
