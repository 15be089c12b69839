/* The trainer's handler of SIGSEGV, which notices the first write to each span of read-only frozen weights.

   A thread of a pool may fault while another thread holds Python's lock and waits for it, so nothing here may wait for
   that lock without a bound. Python makes the table and fills in every function: this file needs no library, and its
   code is the same wherever it is put. `python -m tools.fault_handler` makes worker/trainer/readonly/machine_code.py of
   it; worker/trainer/readonly/handler.py has the same two structures. */

typedef unsigned long u64;
typedef unsigned int u32;

struct span {
    u64 start, stop; /* whole pages */
    u64 address;     /* of the first write */
    u32 claimed;     /* by the thread that wrote first */
    u32 thread;      /* its number, as gettid gives it */
    u32 waiting;     /* that thread waits for Python to say where it is */
    u32 named;       /* which Python has done */
    u32 faults, padding;
};

struct table {
    u64 count;
    struct span *spans;
    u32 noticed;  /* spans that were written to */
    u32 deaf;     /* Python did not answer in time once: nothing waits for it any more */
    int bell;     /* a descriptor that wakes Python's thread */
    u32 patience; /* rounds of 0.2 ms to wait for its answer */
    int (*holds_lock)(void);
    void (*name_now)(u64 index);
    long (*write)(int, const void *, u64);
    int (*nanosleep)(const void *, void *);
    int (*mprotect)(void *, u64, int);
    int (*gettid)(void);
    int (*sigaction)(int, const void *, void *);
    int (*raise)(int);
    int *(*errno_place)(void);
    char before[256]; /* the struct sigaction that was there */
};

struct info { /* the part of siginfo_t that 64-bit Linux has for a fault */
    int number, error, code, padding;
    u64 address;
};

enum { SENT = 0 /* by a process, and not by a fault */, READ_AND_WRITE = 3, MOST_FAULTS = 10000 };

static struct table *volatile const place = (struct table *)0x5045524d41465253; /* replaced by its address */

static void wait_for_name(struct table *table, struct span *span)
{
    u64 one = 1;
    long pause[2] = {0, 200000}; /* struct timespec */
    if (table->deaf)
        return;
    __atomic_store_n(&span->waiting, 1, __ATOMIC_RELEASE);
    table->write(table->bell, &one, sizeof one);
    for (u32 round = 0; !__atomic_load_n(&span->named, __ATOMIC_ACQUIRE); round++) {
        if (round == table->patience) {
            __atomic_store_n(&span->waiting, 0, __ATOMIC_RELEASE); /* it is somewhere else from here on */
            table->deaf = 1;
            return;
        }
        table->nanosleep(pause, 0);
    }
}

static int open_span(struct table *table, const struct info *info)
{
    for (u64 index = 0; index < table->count; index++) {
        struct span *span = &table->spans[index];
        if (info->address < span->start || info->address >= span->stop)
            continue;
        if (__atomic_fetch_add(&span->faults, 1, __ATOMIC_RELAXED) >= MOST_FAULTS)
            return 0; /* something else forbids this write: never try for ever */
        if (!__atomic_exchange_n(&span->claimed, 1, __ATOMIC_ACQ_REL)) {
            span->address = info->address;
            span->thread = table->gettid();
            __atomic_fetch_add(&table->noticed, 1, __ATOMIC_RELEASE);
            if (table->holds_lock())
                table->name_now(index);
            else
                wait_for_name(table, span);
        }
        /* Then the write is made again. Pages that are gone cannot be opened. */
        return table->mprotect((void *)span->start, span->stop - span->start, READ_AND_WRITE) == 0;
    }
    return 0;
}

__attribute__((section(".text.first"))) void handle(int number, const struct info *info, void *context)
{
    struct table *table = place;
    int *error = table->errno_place(), kept = *error;
    (void)context;
    if (info->code <= SENT || !open_span(table, info)) {
        table->sigaction(number, table->before, 0);
        if (info->code <= SENT)
            table->raise(number); /* a fault comes again by itself */
    }
    *error = kept;
}
