/*
 * ivfflat_runs.c
 *	  The rows of a build, brought into the order of their lists: in memory, and as sorted
 *	  runs in temporary files where they are more.  README: Build.
 *
 * Lists are few and rows are large, so rows are not moved: a counting sort orders their numbers.
 */
#include "postgres.h"

#include <fcntl.h>

#include "miscadmin.h"
#include "storage/buffile.h"
#include "storage/sharedfileset.h"
#include "utils/memutils.h"

#include "ivfflat/ivfflat_runs.h"

/* Memory is taken in chunks of these sizes, and is at least so much. */
#define MIN_CHUNK ((Size) 256 * 1024)
#define MAX_CHUNK ((Size) 8 * 1024 * 1024)
#define CHUNKS 16

/* Rows of one size in memory. */
typedef struct Pool
{
	Size		row_size;
	uint32		per_chunk;
	char	  **chunks;
	uint32		nchunks;
	uint32		count;
	uint32	   *lists;			/* of each row */
	uint32	   *order;			/* once sorted: numbers of the rows */
	uint32		first_list;
	uint32		nlists;
} Pool;

/* In a file: so many rows of a list follow.  The last one has an invalid list. */
typedef struct Piece
{
	uint32		list;
	uint32		count;
} Piece;

#define NO_LIST PG_UINT32_MAX

struct AnnIvfRuns
{
	MemoryContext context;
	Pool		vectors;		/* rows of the lists of vectors */
	Pool		plain;			/* rows of the others */
	Size		memory;
	Size		used;
	AnnIvfSharedRuns *shared;	/* files are for others, too; or NULL */
	int			participant;
	int			nfiles;
	BufFile   **files;			/* unless they are shared */
};

/* ---- rows in memory ---- */

static void
initPool(Pool *pool, Size row_size, uint32 first_list, uint32 nlists, Size chunk)
{
	pool->row_size = MAXALIGN(row_size);
	pool->per_chunk = (uint32) Max(1, chunk / pool->row_size);
	pool->first_list = first_list;
	pool->nlists = nlists;
}

static inline char *
rowAt(const Pool *pool, uint32 i)
{
	return pool->chunks[i / pool->per_chunk] + (Size) (i % pool->per_chunk) * pool->row_size;
}

/* What a chunk takes, with the lists of its rows and their place in the order. */
static Size
chunkSize(const Pool *pool)
{
	return add_size(mul_size(pool->row_size, pool->per_chunk), mul_size(2 * sizeof(uint32), pool->per_chunk));
}

static void
addChunk(AnnIvfRuns *runs, Pool *pool)
{
	MemoryContext old = MemoryContextSwitchTo(runs->context);
	Size		nrows = mul_size(pool->nchunks + 1, pool->per_chunk);

	pool->chunks = pool->chunks == NULL ? palloc(sizeof(char *)) :
		repalloc(pool->chunks, mul_size(sizeof(char *), pool->nchunks + 1));
	pool->chunks[pool->nchunks] = palloc_extended(mul_size(pool->row_size, pool->per_chunk), MCXT_ALLOC_HUGE);
	pool->lists = pool->lists == NULL ? palloc_extended(mul_size(sizeof(uint32), nrows), MCXT_ALLOC_HUGE) :
		repalloc_huge(pool->lists, mul_size(sizeof(uint32), nrows));
	pool->nchunks++;
	runs->used += chunkSize(pool);
	MemoryContextSwitchTo(old);
}

/* Orders the rows by their lists; those of a list stay in the order in which they came. */
static void
sortPool(AnnIvfRuns *runs, Pool *pool)
{
	uint32	   *ends = palloc0(mul_size(sizeof(uint32), pool->nlists + 1));

	pool->order = MemoryContextAllocHuge(runs->context, mul_size(sizeof(uint32), Max(pool->count, 1)));
	for (uint32 i = 0; i < pool->count; i++)
		ends[pool->lists[i] - pool->first_list + 1]++;
	for (uint32 list = 0; list < pool->nlists; list++)
		ends[list + 1] += ends[list];
	for (uint32 i = 0; i < pool->count; i++)
		pool->order[ends[pool->lists[i] - pool->first_list]++] = i;
	pfree(ends);
}

/* ---- runs in files ---- */

static void
nameRun(char *name, int participant, int run)
{
	snprintf(name, MAXPGPATH, "p%d.%d", participant, run);
}

static void
writePool(AnnIvfRuns *runs, Pool *pool, BufFile *file)
{
	sortPool(runs, pool);
	for (uint32 at = 0; at < pool->count;)
	{
		Piece		piece = {pool->lists[pool->order[at]], 0};

		CHECK_FOR_INTERRUPTS();
		while (at + piece.count < pool->count && pool->lists[pool->order[at + piece.count]] == piece.list)
			piece.count++;
		BufFileWrite(file, &piece, sizeof(piece));
		for (uint32 end = at + piece.count; at < end; at++)
			BufFileWrite(file, rowAt(pool, pool->order[at]), pool->row_size);
	}
	pfree(pool->order);
	pool->order = NULL;
	pool->count = 0;
}

/* Writes the rows in memory to a file. */
static void
spill(AnnIvfRuns *runs)
{
	MemoryContext old = MemoryContextSwitchTo(runs->context);
	Piece		end = {NO_LIST, 0};
	BufFile    *file;

	if (runs->shared != NULL)
	{
		char		name[MAXPGPATH];

		nameRun(name, runs->participant, runs->nfiles);
		file = BufFileCreateFileSet(&runs->shared->fileset.fs, name);
	}
	else
		file = BufFileCreateTemp(false);
	writePool(runs, &runs->vectors, file);
	writePool(runs, &runs->plain, file);
	BufFileWrite(file, &end, sizeof(end));
	if (runs->shared != NULL)
	{
		BufFileExportFileSet(file);
		BufFileClose(file);
	}
	else
	{
		runs->files = runs->files == NULL ? palloc(sizeof(BufFile *)) :
			repalloc(runs->files, mul_size(sizeof(BufFile *), runs->nfiles + 1));
		runs->files[runs->nfiles] = file;
	}
	runs->nfiles++;
	MemoryContextSwitchTo(old);
}

/*
 * Begins with the rows of a participant, of `nlists` lists of vectors and two others, whose rows are of
 * other sizes.  They are kept within `memory` bytes, but for a few MB.
 */
AnnIvfRuns *
AnnIvfRunsBegin(uint32 nlists, Size vector_row, Size plain_row, Size memory, AnnIvfSharedRuns *shared, int participant)
{
	AnnIvfRuns *runs = palloc0(sizeof(AnnIvfRuns));
	Size		chunk;

	runs->context = AllocSetContextCreate(CurrentMemoryContext, "ivfflat build runs", ALLOCSET_DEFAULT_SIZES);
	runs->memory = Max(memory, CHUNKS * MIN_CHUNK);
	runs->shared = shared;
	runs->participant = participant;
	chunk = Min(runs->memory / CHUNKS, MAX_CHUNK);
	initPool(&runs->vectors, vector_row, 0, nlists, chunk);
	initPool(&runs->plain, plain_row, nlists, 2, Min(chunk, MIN_CHUNK));
	return runs;
}

/*
 * Adds a row of a list; returns the memory that the caller writes it to.
 */
void *
AnnIvfRunsAdd(AnnIvfRuns *runs, uint32 list)
{
	Pool	   *pool = list < runs->vectors.nlists ? &runs->vectors : &runs->plain;

	if (pool->count == pool->nchunks * pool->per_chunk)
	{
		if (runs->used + chunkSize(pool) > runs->memory || pool->count > PG_UINT32_MAX - 2 * pool->per_chunk)
			spill(runs);
		if (pool->count == pool->nchunks * pool->per_chunk)
			addChunk(runs, pool);
	}
	pool->lists[pool->count] = list;
	return rowAt(pool, pool->count++);
}

/*
 * Ends a participant's part: what others are to read is in files then.
 */
void
AnnIvfRunsEnd(AnnIvfRuns *runs, bool for_others)
{
	if (for_others && runs->vectors.count + runs->plain.count > 0)
		spill(runs);
	if (runs->shared != NULL)
		runs->shared->nruns[runs->participant] = runs->nfiles;
}

/* Frees the rows in memory, and the files that are not shared. */
void
AnnIvfRunsFree(AnnIvfRuns *runs)
{
	for (int i = 0; runs->files != NULL && i < runs->nfiles; i++)
		BufFileClose(runs->files[i]);
	MemoryContextDelete(runs->context);
	pfree(runs);
}

/* ---- all of them, list by list ---- */

typedef struct Reader
{
	BufFile    *file;
	Piece		piece;			/* what is left of it */
} Reader;

struct AnnIvfMerge
{
	AnnIvfRuns *runs;			/* own ones; those in memory are read last */
	Reader	   *readers;
	int			nreaders;
	int			at;				/* reader in turn */
	uint32		next_vector;	/* in the order of rows in memory */
	uint32		next_plain;
	char	   *row;			/* read from a file */
};

static void
readBytes(Reader *reader, void *bytes, Size size)
{
	if (BufFileRead(reader->file, bytes, size) != size)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read from a temporary file of an index build")));
}

static void
addReader(AnnIvfMerge *merge, BufFile *file)
{
	Reader	   *reader = &merge->readers[merge->nreaders++];

	reader->file = file;
	readBytes(reader, &reader->piece, sizeof(Piece));
}

/*
 * Begins to read what this participant, and others that shared theirs, have added and ended.
 */
AnnIvfMerge *
AnnIvfMergeBegin(AnnIvfRuns *runs, int nparticipants)
{
	MemoryContext old = MemoryContextSwitchTo(runs->context);
	AnnIvfMerge *merge = palloc0(sizeof(AnnIvfMerge));
	AnnIvfSharedRuns *shared = runs->shared;
	Size		nruns = (Size) runs->nfiles;

	merge->runs = runs;
	merge->row = palloc(Max(runs->vectors.row_size, runs->plain.row_size));
	if (shared != NULL)
	{
		nruns = 0;
		for (int i = 0; i < nparticipants; i++)
			nruns += shared->nruns[i];
	}
	merge->readers = palloc(mul_size(sizeof(Reader), Max(nruns, 1)));
	if (shared != NULL)
	{
		for (int i = 0; i < nparticipants; i++)
			for (int run = 0; run < shared->nruns[i]; run++)
			{
				char		name[MAXPGPATH];

				nameRun(name, i, run);
				addReader(merge, BufFileOpenFileSet(&shared->fileset.fs, name, O_RDONLY, false));
			}
	}
	else
		for (int i = 0; i < runs->nfiles; i++)
		{
			if (BufFileSeek(runs->files[i], 0, 0, SEEK_SET) != 0)
				ereport(ERROR,
						(errcode_for_file_access(),
						 errmsg("could not rewind a temporary file of an index build")));
			addReader(merge, runs->files[i]);
		}
	sortPool(runs, &runs->vectors);
	sortPool(runs, &runs->plain);
	MemoryContextSwitchTo(old);
	return merge;
}

/* Ends reading; the rows themselves stay. */
void
AnnIvfMergeEnd(AnnIvfMerge *merge)
{
	for (int i = 0; merge->runs->shared != NULL && i < merge->nreaders; i++)
		BufFileClose(merge->readers[i].file);
	pfree(merge->readers);
	pfree(merge->row);
	pfree(merge);
}

/*
 * The next row of a list, valid until the next call; NULL if there are no more.  Lists are asked for in
 * ascending order, each until it has no more.
 */
void *
AnnIvfMergeNext(AnnIvfMerge *merge, uint32 list)
{
	bool		plain = list >= merge->runs->vectors.nlists;
	Pool	   *pool = plain ? &merge->runs->plain : &merge->runs->vectors;
	uint32	   *next = plain ? &merge->next_plain : &merge->next_vector;

	for (; merge->at < merge->nreaders; merge->at++)
	{
		Reader	   *reader = &merge->readers[merge->at];

		if (reader->piece.list != list)
			continue;
		readBytes(reader, merge->row, pool->row_size);
		if (--reader->piece.count == 0)
			readBytes(reader, &reader->piece, sizeof(Piece));
		return merge->row;
	}
	if (*next < pool->count && pool->lists[pool->order[*next]] == list)
		return rowAt(pool, pool->order[(*next)++]);
	merge->at = 0;
	return NULL;
}
