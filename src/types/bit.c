/*
 * bit.c
 *	  Distances of bit strings.
 */
#include "postgres.h"

#include "types/types.h"

static void
check_same_length(const VarBit *a, const VarBit *b)
{
	if (unlikely(VARBITLEN(a) != VARBITLEN(b)))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("different bit lengths %d and %d", VARBITLEN(a), VARBITLEN(b))));
}

PG_FUNCTION_INFO_V1(ann_bit_dims);
Datum
ann_bit_dims(PG_FUNCTION_ARGS)
{
	struct varlena *bits = (struct varlena *) PG_GETARG_POINTER(0);

	/* The length is at the head of the value. */
	if (VARATT_IS_EXTENDED(bits))
		bits = PG_DETOAST_DATUM_SLICE(PG_GETARG_DATUM(0), 0, VARBITHDRSZ);
	PG_RETURN_INT32(VARBITLEN((VarBit *) bits));
}

/* The number of bits that differ. */
PG_FUNCTION_INFO_V1(ann_bit_hamming_distance);
Datum
ann_bit_hamming_distance(PG_FUNCTION_ARGS)
{
	const VarBit *a = AnnGetBitArg(fcinfo, 0);
	const VarBit *b = AnnGetBitArg(fcinfo, 1);

	check_same_length(a, b);
	PG_RETURN_FLOAT8((double) ann_kernels.hamming(VARBITS(a), VARBITS(b), VARBITBYTES(a)));
}

/* One minus the ones in both over the ones in either; 1 if they have none in common. */
PG_FUNCTION_INFO_V1(ann_bit_jaccard_distance);
Datum
ann_bit_jaccard_distance(PG_FUNCTION_ARGS)
{
	const VarBit *a = AnnGetBitArg(fcinfo, 0);
	const VarBit *b = AnnGetBitArg(fcinfo, 1);
	uint64_t	both;
	uint64_t	either;

	check_same_length(a, b);
	ann_kernels.jaccard(VARBITS(a), VARBITS(b), VARBITBYTES(a), &both, &either);
	PG_RETURN_FLOAT8(both == 0 ? 1 : 1 - (double) both / (double) either);
}
