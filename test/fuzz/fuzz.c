/*
 * fuzz.c
 *	  libFuzzer targets of the input functions.  The program's name (without
 *	  directory) chooses one: vector_in, halfvec_in, sparsevec_in, vector_recv,
 *	  halfvec_recv, sparsevec_recv.
 *
 * The first byte of an input chooses the type modifier, the rest goes to the
 * function.  Beyond not crashing, what was accepted must satisfy:
 *
 *	- the invariants of a stored value (src/types/types.h), and the type modifier;
 *	- text: the elements are those that strtof reads, whatever way the
 *	  function found them; halves are the nearest to those;
 *	- binary: send gives the bytes that came in;
 *	- out followed by in, and send followed by recv, give the same bytes.
 *
 * What was refused must carry one of the SQLSTATEs meant for input, and raise no
 * hard error where the caller asked for a soft one.
 */
#include "postgres.h"

#include <math.h>

#include "lib/stringinfo.h"
#include "shim.h"
#include "types/types.h"

#define TYPE_FUNCTIONS(type) \
	extern PGDLLEXPORT Datum ann_##type##_in(PG_FUNCTION_ARGS); \
	extern PGDLLEXPORT Datum ann_##type##_out(PG_FUNCTION_ARGS); \
	extern PGDLLEXPORT Datum ann_##type##_recv(PG_FUNCTION_ARGS); \
	extern PGDLLEXPORT Datum ann_##type##_send(PG_FUNCTION_ARGS)

TYPE_FUNCTIONS(vector);
TYPE_FUNCTIONS(halfvec);
TYPE_FUNCTIONS(sparsevec);

extern int	LLVMFuzzerInitialize(int *argc, char ***argv);
extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Type
{
	const char *name;
	PGFunction	in;
	PGFunction	out;
	PGFunction	recv;
	PGFunction	send;
	int			(*check) (const void *value);	/* invariants; returns the dimension */
	void		(*check_text) (const void *value, const char *text);
} Type;

static const Type *type;
static bool binary;

#define require(condition) \
	do { \
		if (!(condition)) \
		{ \
			fprintf(stderr, "%s, line %d: not so: %s\n", type->name, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

/* --- vector and halfvec --- */

static double
half_value(AnnHalf h)
{
	int			exponent = (h >> 10) & 31;
	int			fraction = h & 1023;
	double		value;

	require(exponent != 31);
	if (exponent == 0)
		value = ldexp(fraction, -24);
	else
		value = ldexp(1024 + fraction, exponent - 25);
	return (h & 0x8000) ? -value : value;
}

/* h is the half nearest to f, the even one of two. */
static void
check_rounding(AnnHalf h, float f)
{
	AnnHalf		magnitude = h & 0x7FFF;
	double		error = fabs(half_value(h) - f);
	double		above = fabs(fabs(f) - (magnitude == 0x7BFF ? 65536.0 : half_value(magnitude + 1)));
	bool		odd = magnitude & 1;

	require(!!(h & 0x8000) == !!signbit(f));
	require(error < above || (error == above && !odd));
	if (magnitude > 0)
	{
		double		below = fabs(fabs(f) - half_value(magnitude - 1));

		require(error < below || (error == below && !odd));
	}
}

static int
check_vector(const void *value)
{
	const AnnVector *v = value;

	require(v->dim >= 1 && v->dim <= ANN_MAX_DIM);
	require(VARSIZE(v) == AnnVectorSize(v->dim));
	require(v->unused == 0);
	for (int i = 0; i < v->dim; i++)
		require(isfinite(v->x[i]));
	return v->dim;
}

static int
check_halfvec(const void *value)
{
	const AnnHalfVector *v = value;

	require(v->dim >= 1 && v->dim <= ANN_MAX_DIM);
	require(VARSIZE(v) == AnnHalfVectorSize(v->dim));
	require(v->unused == 0);
	for (int i = 0; i < v->dim; i++)
		half_value(v->x[i]);
	return v->dim;
}

/* The numbers in an accepted text, one by one. */
static const char *
next_number(const char *p, float *number)
{
	char	   *end;

	p += strspn(p, "[{,: \t\n\v\f\r");
	*number = strtof(p, &end);
	require(end > p);
	return end;
}

static void
check_vector_text(const void *value, const char *text)
{
	const AnnVector *v = value;

	for (int i = 0; i < v->dim; i++)
	{
		float		f;

		text = next_number(text, &f);
		require(memcmp(&f, &v->x[i], sizeof(f)) == 0);
	}
	require(strcspn(text, "0123456789,") == strlen(text));
}

static void
check_halfvec_text(const void *value, const char *text)
{
	const AnnHalfVector *v = value;

	for (int i = 0; i < v->dim; i++)
	{
		float		f;

		text = next_number(text, &f);
		check_rounding(v->x[i], f);
	}
	require(strcspn(text, "0123456789,") == strlen(text));
}

/* --- sparsevec --- */

static int
check_sparsevec(const void *value)
{
	AnnSparseVector *v = (AnnSparseVector *) value;
	const float *x = AnnSparseValues(v);

	require(v->dim >= 1 && v->dim <= ANN_SPARSE_MAX_DIM);
	require(v->nnz >= 0 && v->nnz <= ANN_SPARSE_MAX_NNZ && v->nnz <= v->dim);
	require(VARSIZE(v) == AnnSparseVectorSize(v->nnz));
	require(v->unused == 0);
	for (int i = 0; i < v->nnz; i++)
	{
		require(v->indices[i] >= 0 && v->indices[i] < v->dim);
		require(i == 0 || v->indices[i] > v->indices[i - 1]);
		require(isfinite(x[i]) && x[i] != 0);
	}
	return v->dim;
}

static void
check_sparsevec_text(const void *value, const char *text)
{
	AnnSparseVector *v = (AnnSparseVector *) value;
	int			found = 0;

	for (;;)
	{
		char	   *end;
		long		index;
		float		f;

		text += strspn(text, "{, \t\n\v\f\r");
		if (*text == '}')
			break;
		index = strtol(text, &end, 10) - 1;
		require(end > text);
		text = next_number(end, &f);
		if (f == 0)
			continue;
		for (int i = 0;; i++)
		{
			require(i < v->nnz);
			if (v->indices[i] == index)
			{
				require(memcmp(&f, &AnnSparseValues(v)[i], sizeof(f)) == 0);
				found++;
				break;
			}
		}
	}
	require(found == v->nnz);
	text++;
	text += strspn(text, "/ \t\n\v\f\r");
	require(strtol(text, NULL, 10) == v->dim);
}

static const Type types[] = {
	{"vector", ann_vector_in, ann_vector_out, ann_vector_recv, ann_vector_send,
	check_vector, check_vector_text},
	{"halfvec", ann_halfvec_in, ann_halfvec_out, ann_halfvec_recv, ann_halfvec_send,
	check_halfvec, check_halfvec_text},
	{"sparsevec", ann_sparsevec_in, ann_sparsevec_out, ann_sparsevec_recv, ann_sparsevec_send,
	check_sparsevec, check_sparsevec_text},
};

/* --- what holds for all --- */

static bool
call(PGFunction function, Datum *result, Datum argument, int32 typmod)
{
	return ShimCall(function, result, NULL, argument, ObjectIdGetDatum(InvalidOid), Int32GetDatum(typmod));
}

/* recv of exactly these bytes: what is read beyond them is an error. */
static bool
receive(const void *bytes, int length, int32 typmod, Datum *result, int *used)
{
	StringInfoData buf;
	bool		accepted;

	buf.data = malloc(length);
	if (length > 0)
		memcpy(buf.data, bytes, length);
	buf.len = buf.maxlen = length;
	buf.cursor = 0;
	accepted = call(type->recv, result, PointerGetDatum(&buf), typmod);
	*used = buf.cursor;
	free(buf.data);
	return accepted;
}

static void
check_refusal(void)
{
	switch (shim_sqlstate)
	{
		case ERRCODE_INVALID_TEXT_REPRESENTATION:
			require(!binary);
			break;
		case ERRCODE_INVALID_BINARY_REPRESENTATION:
		case ERRCODE_PROTOCOL_VIOLATION:
			require(binary);
			break;
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE:
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
			break;
		default:
			fprintf(stderr, "SQLSTATE %s: %s\n", ShimSqlState(), shim_message);
			require(!"a SQLSTATE meant for input");
	}
	require(shim_message[0] != '\0');
}

static void
check_soft_error(char *text, int32 typmod, bool accepted)
{
#ifdef SOFT_ERROR_OCCURRED
	ErrorSaveContext escontext = {T_ErrorSaveContext};
	Datum		value;

	require(ShimCall(type->in, &value, (Node *) &escontext, CStringGetDatum(text),
					 ObjectIdGetDatum(InvalidOid), Int32GetDatum(typmod)));
	require(escontext.error_occurred == !accepted);
#endif
}

static bool
same_value(Datum a, Datum b)
{
	void	   *x = DatumGetPointer(a);
	void	   *y = DatumGetPointer(b);

	return VARSIZE(x) == VARSIZE(y) && memcmp(x, y, VARSIZE(x)) == 0;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const char *name = strrchr((*argv)[0], '/');

	name = name ? name + 1 : (*argv)[0];
	for (int i = 0; i < lengthof(types); i++)
	{
		size_t		length = strlen(types[i].name);

		if (strncmp(name, types[i].name, length) != 0)
			continue;
		binary = strcmp(name + length, "_recv") == 0;
		if (binary || strcmp(name + length, "_in") == 0)
			type = &types[i];
	}
	if (type == NULL)
	{
		fprintf(stderr, "call me by the name of an input function\n");
		exit(1);
	}
	AnnDistanceInit();
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const int32 typmods[] = {-1, -1, -1, 1, 2, 3, ANN_MAX_DIM, ANN_SPARSE_MAX_DIM};
	int32		typmod;
	char	   *text = NULL;
	Datum		value;
	Datum		again;
	bool		accepted;
	int			used = 0;
	int			dim;
	bytea	   *sent;

	if (size < 1)
		return -1;
	typmod = typmods[data[0] % lengthof(typmods)];
	data++;
	size--;

	if (binary)
		accepted = receive(data, size, typmod, &value, &used);
	else
	{
		text = malloc(size + 1);
		memcpy(text, data, size);
		text[size] = '\0';
		accepted = call(type->in, &value, CStringGetDatum(text), typmod);
	}

	if (!accepted)
		check_refusal();
	if (!binary)
		check_soft_error(text, typmod, accepted);

	if (accepted)
	{
		dim = type->check(DatumGetPointer(value));
		require(typmod == -1 || typmod == dim);
		if (!binary)
			type->check_text(DatumGetPointer(value), text);

		require(call(type->out, &again, value, 0));
		require(call(type->in, &again, again, dim));
		require(same_value(value, again));

		require(call(type->send, &again, value, 0));
		sent = DatumGetByteaPP(again);
		if (binary)
			require(VARSIZE_ANY_EXHDR(sent) == used && memcmp(VARDATA_ANY(sent), data, used) == 0);
		require(receive(VARDATA_ANY(sent), VARSIZE_ANY_EXHDR(sent), dim, &again, &used));
		require(used == VARSIZE_ANY_EXHDR(sent));
		require(same_value(value, again));
	}

	free(text);
	ShimFreeAll();
	return 0;
}
