/*
 * dense_io_template.h
 *	  Text and binary input and output of a dense type; see dense.h.
 */

/*
 * type_in(cstring, oid, integer): "[1,2,3]".
 */
DENSE_FUNCTION(in)
{
	const char *literal = PG_GETARG_CSTRING(0);
	int32		typmod = PG_GETARG_INT32(2);
	Node	   *escontext = fcinfo->context;
	DENSE_ELEMENT x[ANN_MAX_DIM];
	int			dim = 0;
	const char *p = AnnSkipSpace(literal);
	DENSE_VECTOR *result;

	if (*p != '[')
		AnnSyntaxError(escontext, DENSE_NAME, literal, "Vector contents must start with \"[\".");
	p = AnnSkipSpace(p + 1);
	if (*p == ']')
		AnnEreturn(escontext, (Datum) 0,
				   (errcode(ERRCODE_DATA_EXCEPTION),
					errmsg("%s must have at least 1 dimension", DENSE_NAME)));

	for (;;)
	{
		const char *start = p = AnnSkipSpace(p);
		AnnNumberStatus status;
		float		value;

		if (unlikely(dim == ANN_MAX_DIM))
			AnnEreturn(escontext, (Datum) 0,
					   (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("%s cannot have more than %d dimensions", DENSE_NAME, ANN_MAX_DIM)));

		status = AnnReadFloat(&p, &value);
		if (unlikely(status == ANN_NUMBER_SYNTAX))
			AnnSyntaxError(escontext, DENSE_NAME, literal, "Element %d is not a number.", dim + 1);
		if (unlikely(status == ANN_NUMBER_OVERFLOW ||
					 (!DenseFits(value) && !isnan(value) && !isinf(value))))
			AnnEreturn(escontext, (Datum) 0,
					   (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						errmsg("\"%s\" is out of range for type %s",
							   pnstrdup(start, p - start), DENSE_NAME),
						errdetail("The value is element %d.", dim + 1)));
		if (unlikely(!DenseFits(value)))
		{
			AnnCheckElement(value, dim + 1, DENSE_NAME, escontext);
			return (Datum) 0;
		}
		x[dim++] = DenseFromFloat(value);

		p = AnnSkipSpace(p);
		if (*p == ']')
			break;
		if (unlikely(*p != ','))
			AnnSyntaxError(escontext, DENSE_NAME, literal, "Expected \",\" or \"]\" after element %d.", dim);
		p++;
	}
	p = AnnSkipSpace(p + 1);
	if (*p != '\0')
		AnnSyntaxError(escontext, DENSE_NAME, literal, "Junk after closing bracket.");
	if (!AnnCheckTypmod(typmod, dim, escontext))
		return (Datum) 0;

	result = DenseNew(dim);
	memcpy(result->x, x, sizeof(DENSE_ELEMENT) * dim);
	PG_RETURN_POINTER(result);
}

/* The text of a value, which is also the JSON of it; palloc'd. */
static char *
dense_text(const DENSE_VECTOR *v)
{
	char	   *text = palloc((Size) v->dim * ANN_NUMBER_WIDTH + 2);
	char	   *p = text;

	*p++ = '[';
	for (int i = 0; i < v->dim; i++)
	{
		if (i > 0)
			*p++ = ',';
		p += float_to_shortest_decimal_bufn(DenseToFloat(v->x[i]), p);
	}
	*p++ = ']';
	*p = '\0';
	return text;
}

DENSE_FUNCTION(out)
{
	PG_RETURN_CSTRING(dense_text(DENSE_GETARG(0)));
}

DENSE_FUNCTION(typmod_in)
{
	PG_RETURN_INT32(AnnTypmodIn(PG_GETARG_ARRAYTYPE_P(0), DENSE_NAME, ANN_MAX_DIM));
}

/*
 * type_recv(internal, oid, integer): int16 dim, int16 zero, dim elements, all
 * in network byte order.
 */
DENSE_FUNCTION(recv)
{
	StringInfo	buf = (StringInfo) PG_GETARG_POINTER(0);
	int32		typmod = PG_GETARG_INT32(2);
	int			dim;
	int			unused;
	DENSE_VECTOR *result;

	AnnCheckMessage(buf, 2 * sizeof(int16), DENSE_NAME);
	dim = (int16) pq_getmsgint(buf, 2);
	unused = (int16) pq_getmsgint(buf, 2);
	if (dim < 1)
		AnnInvalidBinary(DENSE_NAME, "The number of dimensions is %d.", dim);
	AnnCheckDim(dim, ANN_MAX_DIM, DENSE_NAME);
	if (unused != 0)
		AnnInvalidBinary(DENSE_NAME, "The reserved field is %d, not zero.", unused);
	if (AnnMessageRest(buf) != sizeof(DENSE_ELEMENT) * dim)
		AnnInvalidBinary(DENSE_NAME, "%zu bytes follow the header, not %zu.",
						   AnnMessageRest(buf), sizeof(DENSE_ELEMENT) * dim);
	AnnCheckTypmod(typmod, dim, NULL);

	result = DenseNew(dim);
	memcpy(result->x, pq_getmsgbytes(buf, sizeof(DENSE_ELEMENT) * dim), sizeof(DENSE_ELEMENT) * dim);
	for (int i = 0; i < dim; i++)
	{
		float		value;

		DenseSwapBytes(&result->x[i]);
		value = DenseToFloat(result->x[i]);
		if (unlikely(isnan(value) || isinf(value)))
			AnnInvalidBinary(DENSE_NAME, "Element %d is %s.", i + 1, isnan(value) ? "NaN" : "infinite");
	}
	PG_RETURN_POINTER(result);
}

DENSE_FUNCTION(send)
{
	DENSE_VECTOR *v = DENSE_GETARG(0);
	StringInfoData buf;
	DENSE_ELEMENT *dst;

	pq_begintypsend(&buf);
	pq_sendint16(&buf, v->dim);
	pq_sendint16(&buf, v->unused);
	dst = palloc(sizeof(DENSE_ELEMENT) * v->dim);
	memcpy(dst, v->x, sizeof(DENSE_ELEMENT) * v->dim);
	for (int i = 0; i < v->dim; i++)
		DenseSwapBytes(&dst[i]);
	pq_sendbytes(&buf, (char *) dst, sizeof(DENSE_ELEMENT) * v->dim);
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}
