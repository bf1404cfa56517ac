# ann: vector search for PostgreSQL.  `make demo` and `make test` set up everything they need by themselves.

EXTENSION = ann
MODULE_big = ann
DATA = sql/ann--1.0.sql

# Listed by hand: wildcards come up empty in VPATH builds.
OBJS = \
	src/ann.o

PG_CONFIG ?= pg_config
PG_CPPFLAGS = -I$(srcdir)/src
PG_CFLAGS += -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers
# The server loads libraries with RTLD_GLOBAL: our own symbols come first even with another vector library loaded.
SHLIB_LINK += -Wl,-Bsymbolic

REGRESS = $(patsubst $(srcdir)/sql/%.sql,%,$(filter-out $(srcdir)/sql/ann--%.sql,$(sort $(wildcard $(srcdir)/sql/*.sql))))
REGRESS_OPTS = --inputdir=$(srcdir) --load-extension=ann

# Per-object instruction-set flags do not reach PGXS's second compilation to LLVM bitcode.
override with_llvm := no

PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifneq ($(PGXS),)
include $(PGXS)
endif
