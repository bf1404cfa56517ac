# ann: vector search for PostgreSQL.  `make demo` and `make test` set up everything they need by themselves.

EXTENSION = ann
MODULE_big = ann
DATA = sql/ann--1.0.sql

# Listed by hand: wildcards come up empty in VPATH builds.
OBJS = \
	src/ann.o \
	src/distance/dispatch.o \
	src/distance/scalar.o \
	src/page/page.o \
	src/types/agg.o \
	src/types/halfvec.o \
	src/types/shared.o \
	src/types/vector.o

# Handed on to the scripts only when somebody chose it: they find or install a server by themselves.
ifneq ($(filter command environment,$(origin PG_CONFIG)),)
CHOSEN = PG_CONFIG='$(PG_CONFIG)'
endif
PG_CONFIG ?= pg_config

PG_CPPFLAGS = -I$(srcdir)/src
PG_CFLAGS += -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers
# Header dependencies: PGXS tracks none.
PG_CFLAGS += -MMD -MP
# The server loads libraries with RTLD_GLOBAL: our own symbols come first even with another vector library loaded.
SHLIB_LINK += -Wl,-Bsymbolic

REGRESS = $(patsubst $(srcdir)/sql/%.sql,%,$(filter-out $(srcdir)/sql/ann--%.sql,$(sort $(wildcard $(srcdir)/sql/*.sql))))
REGRESS_OPTS = --inputdir=$(srcdir) --load-extension=ann

# Per-object instruction-set flags do not reach PGXS's second compilation to LLVM bitcode.
override with_llvm := no

EXTRA_CLEAN = $(OBJS:.o=.d)

.DEFAULT_GOAL := all

PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))
ifneq ($(PGXS),)
include $(PGXS)

# A VPATH build starts in an empty folder, and must not take objects from the source tree for its own.
ifdef VPATH
$(shell mkdir -p $(sort $(dir $(OBJS))))
srcdir := $(VPATH)
override VPATH =
vpath %.c $(srcdir)
vpath %.control $(srcdir)
vpath %.sql $(srcdir)
endif

-include $(OBJS:.o=.d)

.PHONY: objects
objects: $(OBJS)
else
all install installcheck:
	@echo "ann: $(PG_CONFIG) knows no PostgreSQL server to build for."
	@echo "Run 'make demo' or 'make test', which install what is missing, or install your server's"
	@echo "development package (Debian: postgresql-server-dev-NN), or give PG_CONFIG=/path/to/pg_config."
	@exit 1
clean:
	rm -f $(OBJS) $(OBJS:.o=.d) ann.so
.PHONY: all install installcheck clean
endif

# The rest needs nothing but make and bash: the scripts install what they use.
comma := ,
top := $(patsubst %/,%,$(dir $(abspath $(firstword $(MAKEFILE_LIST)))))

.PHONY: help demo test test-fresh test-versions test-asan fuzz bench bench-exact

help:
	@echo "make demo            semantic search over the PostgreSQL manual (QUESTION='...', KEEP=1)"
	@echo "make test            build, install, run every test, print the counts"
	@echo "make test-asan       types and kernels under AddressSanitizer and UBSan"
	@echo "make test-fresh      make test in a fresh minimal Debian (SUITE=bookworm; needs root)"
	@echo "make test-versions   make test on PostgreSQL 17 (trixie) and 18 (sid), the same way"
	@echo "make fuzz            long fuzz run of the input functions (FUZZ_SECONDS=600)"
	@echo "make bench           compare with pgvector, hnswlib and faiss (DATASET=... WHAT=... ROWS=... STORAGE=...)"
	@echo "make bench-exact     the same for exact search, over dimensions and storage"
	@echo "make, make install, make installcheck: as with every PGXS extension (PG_CONFIG=...)"

demo:
	@$(CHOSEN) QUESTION='$(subst ','\'',$(QUESTION))' KEEP='$(KEEP)' $(top)/test/demo/run
test test-asan fuzz test-versions test-fresh:
	@$(CHOSEN) $(top)/test/$(if $(filter test,$@),run,$@)
bench:
	@$(CHOSEN) DATASET='$(DATASET)' WHAT='$(WHAT)' ROWS='$(ROWS)' STORAGE='$(STORAGE)' $(top)/test/bench/run
bench-exact:
	@$(CHOSEN) DATASET='$(or $(DATASET),random384$(comma)random768$(comma)random1536)' WHAT=exact ROWS='$(ROWS)' \
		STORAGE='$(or $(STORAGE),inline$(comma)toast)' $(top)/test/bench/run
