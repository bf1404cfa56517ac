/*
 * shim.c
 *	  See shim.h.  What is not here and not in libpgcommon or libpgport stays
 *	  unresolved: a call to it crashes, and belongs here.
 */
#include "postgres.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>

#include "libpq/pqformat.h"
#include "port/pg_bswap.h"
#include "shim.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compat.h"

/* The C library's own, whose arguments AddressSanitizer checks. */
#undef vsnprintf

int			shim_sqlstate;
char		shim_message[1024];

sigjmp_buf *PG_exception_stack = NULL;
ErrorContextCallback *error_context_stack = NULL;
MemoryContext CurrentMemoryContext = NULL;
volatile sig_atomic_t InterruptPending = false;

/* --- memory: remembered, to be freed after each input --- */

static void **chunks;
static size_t nchunks;
static size_t maxchunks;

static void *
remember(void *chunk)
{
	if (chunk == NULL)
		abort();
	if (nchunks == maxchunks)
	{
		maxchunks = maxchunks ? 2 * maxchunks : 256;
		chunks = realloc(chunks, maxchunks * sizeof(void *));
	}
	chunks[nchunks++] = chunk;
	return chunk;
}

static void
forget(void *chunk)
{
	for (size_t i = nchunks; i > 0; i--)
	{
		if (chunks[i - 1] == chunk)
		{
			chunks[i - 1] = chunks[--nchunks];
			return;
		}
	}
	abort();
}

void
ShimFreeAll(void)
{
	while (nchunks > 0)
		free(chunks[--nchunks]);
}

static void
check_size(Size size)
{
	if (!AllocSizeIsValid(size))
		elog(ERROR, "invalid memory alloc request size %zu", size);
}

void *
palloc(Size size)
{
	check_size(size);
	return remember(malloc(size));
}

void *
palloc0(Size size)
{
	check_size(size);
	return remember(calloc(1, size));
}

void *
MemoryContextAlloc(MemoryContext context, Size size)
{
	return palloc(size);
}

void *
MemoryContextAllocZero(MemoryContext context, Size size)
{
	return palloc0(size);
}

void *
repalloc(void *chunk, Size size)
{
	check_size(size);
	forget(chunk);
	return remember(realloc(chunk, size));
}

void
pfree(void *chunk)
{
	forget(chunk);
	free(chunk);
}

char *
pnstrdup(const char *in, Size len)
{
	char	   *out;

	len = strnlen(in, len);
	out = palloc(len + 1);
	memcpy(out, in, len);
	out[len] = '\0';
	return out;
}

char *
pstrdup(const char *in)
{
	return pnstrdup(in, strlen(in));
}

Size
mul_size(Size a, Size b)
{
	Size		result;

	if (__builtin_mul_overflow(a, b, &result))
		elog(ERROR, "requested size overflows size_t");
	return result;
}

Size
add_size(Size a, Size b)
{
	Size		result;

	if (__builtin_add_overflow(a, b, &result))
		elog(ERROR, "requested size overflows size_t");
	return result;
}

/* Decimal digits without a terminator; returns their number. */
int
pg_ultoa_n(uint32 value, char *a)
{
	char		digits[11];
	int			length = sprintf(digits, "%u", value);

	memcpy(a, digits, length);
	return length;
}

struct varlena *
pg_detoast_datum(struct varlena *datum)
{
	if (VARATT_IS_EXTENDED(datum))
		abort();
	return datum;
}

struct varlena *
pg_detoast_datum_packed(struct varlena *datum)
{
	return pg_detoast_datum(datum);
}

/* --- errors --- */

bool
errstart(int elevel, const char *domain)
{
	if (elevel < ERROR)
		return false;
	shim_sqlstate = ERRCODE_INTERNAL_ERROR;
	shim_message[0] = '\0';
	return true;
}

bool
errstart_cold(int elevel, const char *domain)
{
	return errstart(elevel, domain);
}

void
errfinish(const char *filename, int lineno, const char *funcname)
{
	siglongjmp(*PG_exception_stack, 1);
}

int
errcode(int sqlerrcode)
{
	shim_sqlstate = sqlerrcode;
	return 0;
}

const char *
ShimSqlState(void)
{
	static char state[6];

	for (int i = 0; i < 5; i++)
		state[i] = PGUNSIXBIT(shim_sqlstate >> (6 * i));
	return state;
}

static void
format_message(const char *fmt, va_list args)
{
	char		buffer[sizeof(shim_message)];

	vsnprintf(buffer, sizeof(buffer), fmt, args);
	if (shim_message[0] == '\0')
		strcpy(shim_message, buffer);
}

#define MESSAGE_FUNCTION(name) \
	int \
	name(const char *fmt, ...) \
	{ \
		va_list		args; \
\
		va_start(args, fmt); \
		format_message(fmt, args); \
		va_end(args); \
		return 0; \
	}

MESSAGE_FUNCTION(errmsg)
MESSAGE_FUNCTION(errmsg_internal)
MESSAGE_FUNCTION(errdetail)
MESSAGE_FUNCTION(errdetail_internal)
MESSAGE_FUNCTION(errhint)

#ifdef SOFT_ERROR_OCCURRED
bool
errsave_start(Node *context, const char *domain)
{
	return errstart(ERROR, domain);
}

void
errsave_finish(Node *context, const char *filename, int lineno, const char *funcname)
{
	if (context == NULL || !IsA(context, ErrorSaveContext))
		errfinish(filename, lineno, funcname);
	((ErrorSaveContext *) context)->error_occurred = true;
}
#endif

bool
ShimCall(PGFunction function, Datum *result, Node *escontext, Datum a, Datum b, Datum c)
{
	LOCAL_FCINFO(fcinfo, 3);
	sigjmp_buf	here;

	InitFunctionCallInfoData(*fcinfo, NULL, 3, InvalidOid, escontext, NULL);
	fcinfo->args[0].value = a;
	fcinfo->args[1].value = b;
	fcinfo->args[2].value = c;
	for (int i = 0; i < 3; i++)
		fcinfo->args[i].isnull = false;

	PG_exception_stack = &here;
	if (sigsetjmp(here, 0) != 0)
		return false;
	*result = function(fcinfo);
	return true;
}

/* --- messages, as src/backend/libpq/pqformat.c documents them --- */

/*
 * Two functions whose declarations differ between server versions (char * or
 * void *) are defined under other names for the compiler.
 */
extern void copymsgbytes(StringInfo msg, void *buf, int datalen) __asm__("pq_copymsgbytes");
extern void sendbytes(StringInfo buf, const void *data, int datalen) __asm__("pq_sendbytes");

void
copymsgbytes(StringInfo msg, void *buf, int datalen)
{
	if (datalen < 0 || datalen > msg->len - msg->cursor)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("insufficient data left in message")));
	memcpy(buf, msg->data + msg->cursor, datalen);
	msg->cursor += datalen;
}

const char *
pq_getmsgbytes(StringInfo msg, int datalen)
{
	const char *result;

	if (datalen < 0 || datalen > msg->len - msg->cursor)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("insufficient data left in message")));
	result = msg->data + msg->cursor;
	msg->cursor += datalen;
	return result;
}

unsigned int
pq_getmsgint(StringInfo msg, int b)
{
	unsigned char bytes[4];
	unsigned int result = 0;

	if (b != 1 && b != 2 && b != 4)
		elog(ERROR, "unsupported integer size %d", b);
	copymsgbytes(msg, bytes, b);
	for (int i = 0; i < b; i++)
		result = result << 8 | bytes[i];
	return result;
}

float4
pq_getmsgfloat4(StringInfo msg)
{
	uint32		bits = pq_getmsgint(msg, 4);
	float4		result;

	memcpy(&result, &bits, sizeof(result));
	return result;
}

void
pq_getmsgend(StringInfo msg)
{
	if (msg->cursor != msg->len)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("invalid message format")));
}

void
pq_begintypsend(StringInfo buf)
{
	initStringInfo(buf);
	appendBinaryStringInfo(buf, "\0\0\0\0", 4);
}

void
sendbytes(StringInfo buf, const void *data, int datalen)
{
	appendBinaryStringInfo(buf, data, datalen);
}

void
pq_sendfloat4(StringInfo buf, float4 f)
{
	uint32		bits;

	memcpy(&bits, &f, sizeof(bits));
	pq_sendint32(buf, bits);
}

bytea *
pq_endtypsend(StringInfo buf)
{
	bytea	   *result = (bytea *) buf->data;

	SET_VARSIZE(result, buf->len);
	return result;
}
