/* The switch saves the callee-saved registers on the stack that is left and exchanges the stack
 * pointer: a few nanoseconds, no system call (swapcontext makes one for the signal mask). It is
 * written out for x86-64; other machines take swapcontext until somebody can measure theirs.
 *
 * Thread-local variables: a compiler may keep the address of one in a register across a call, and a
 * fiber may come back from a call on another thread. So code on a fiber's stack reads them only
 * through functions that are never inlined, and finds its way back to the thread through the fiber.
 *
 * Sanitizers must be told about each switch, or they take one stack for the other: see
 * sanitizer/common_interface_defs.h and sanitizer/tsan_interface.h. */
#include "rpc/fiber.h"

#include <assert.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#if !defined(__x86_64__) || defined(CAIRN_FIBER_UCONTEXT)
#define USE_UCONTEXT 1
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STACK_BYTES ((size_t)256 << 10) /* their frames are several times as large */
#else
#define STACK_BYTES ((size_t)64 << 10)
#endif

#define POOL_MAX 64 /* stacks kept for reuse; more are given back to the kernel */

#define NOT_INLINED __attribute__((noinline))

/* One side of a switch: a stack that is left now and gone back to later. */
struct side {
#if defined(USE_UCONTEXT)
	ucontext_t context;
#else
	void *sp;
#endif
#if defined(__SANITIZE_ADDRESS__)
	void *fake_stack;
	const void *bottom;
	size_t size;
#endif
#if defined(__SANITIZE_THREAD__)
	void *tsan;
#endif
};

struct cairn_fiber {
	struct side side;
	struct side *thread; /* whoever runs it now */
	void (*entry)(void *arg);
	void (*done)(void *arg);
	void *arg;
	bool (*park_fn)(void *arg);
	void *park_arg;
	struct cairn_fiber_pool *pool;
	struct cairn_fiber *next; /* in the pool; guarded by its mu */
	uint8_t *map;		  /* guard page, then the stack */
	size_t map_bytes;
	bool dying;
};

struct cairn_fiber_pool {
	pthread_mutex_t mu;
	struct cairn_fiber *idle; /* guarded by mu */
	size_t n_idle;		  /* guarded by mu */
};

static _Thread_local struct cairn_fiber *current;

NOT_INLINED struct cairn_fiber *cairn_fiber_current(void)
{
	struct cairn_fiber *f = current;
	__asm__ volatile("" : "+r"(f)); /* not pure: the next call may be on another thread */
	return f;
}

static NOT_INLINED void set_current(struct cairn_fiber *f)
{
	__asm__ volatile("" ::: "memory");
	current = f;
}

/* ---- the switch ------------------------------------------------------------------------------ */

static void fiber_main(struct cairn_fiber *f);

#if defined(USE_UCONTEXT)

static void switch_stacks(struct side *from, struct side *to)
{
	if (swapcontext(&from->context, &to->context) != 0) abort();
}

static void start_on_stack(unsigned high, unsigned low)
{
	uintptr_t p = ((uintptr_t)high << 16 << 16) | low;
	fiber_main((struct cairn_fiber *)p);
}

static void prepare_stack(struct cairn_fiber *f, uint8_t *bottom)
{
	uintptr_t p = (uintptr_t)f;
	if (getcontext(&f->side.context) != 0) abort();
	f->side.context.uc_stack.ss_sp = bottom;
	f->side.context.uc_stack.ss_size = STACK_BYTES;
	f->side.context.uc_link = NULL;
	makecontext(&f->side.context, (void (*)(void))start_on_stack, 2, (unsigned)(p >> 16 >> 16),
		    (unsigned)p);
}

#else

void cairn_fiber_switch_asm(void **save, void *load);
void cairn_fiber_start_asm(void);

__asm__(".text\n"
	".globl cairn_fiber_switch_asm\n"
	".hidden cairn_fiber_switch_asm\n"
	".type cairn_fiber_switch_asm, @function\n"
	"cairn_fiber_switch_asm:\n"
	".cfi_startproc\n"
	"	pushq %rbp\n"
	"	pushq %rbx\n"
	"	pushq %r12\n"
	"	pushq %r13\n"
	"	pushq %r14\n"
	"	pushq %r15\n"
	"	movq %rsp, (%rdi)\n"
	"	movq %rsi, %rsp\n"
	"	popq %r15\n"
	"	popq %r14\n"
	"	popq %r13\n"
	"	popq %r12\n"
	"	popq %rbx\n"
	"	popq %rbp\n"
	"	ret\n"
	".cfi_endproc\n"
	".size cairn_fiber_switch_asm, . - cairn_fiber_switch_asm\n"
	/* The first entry: rbx holds the function, r12 its argument, as prepare_stack put them. */
	".globl cairn_fiber_start_asm\n"
	".hidden cairn_fiber_start_asm\n"
	".type cairn_fiber_start_asm, @function\n"
	"cairn_fiber_start_asm:\n"
	".cfi_startproc\n"
	".cfi_undefined rip\n" /* debuggers end their backtrace here */
	"	movq %r12, %rdi\n"
	"	callq *%rbx\n"
	"	ud2\n"
	".cfi_endproc\n"
	".size cairn_fiber_start_asm, . - cairn_fiber_start_asm\n");

static void switch_stacks(struct side *from, struct side *to)
{
	cairn_fiber_switch_asm(&from->sp, to->sp);
}

static void prepare_stack(struct cairn_fiber *f, uint8_t *bottom)
{
	/* What switch_asm pops: r15 r14 r13 r12 rbx rbp, then the return address. After that the
	 * stack pointer is a multiple of 16, as at any call. */
	uintptr_t *top = (uintptr_t *)(void *)(bottom + STACK_BYTES);
	top -= 2;
	*--top = (uintptr_t)cairn_fiber_start_asm;
	*--top = 0;
	*--top = (uintptr_t)fiber_main;
	*--top = (uintptr_t)f;
	*--top = 0;
	*--top = 0;
	*--top = 0;
	f->side.sp = top;
}

#endif

/* ---- entering and leaving ----------------------------------------------------------------------
 */

/* Enter the fiber; returns when it has left again. */
static void enter(struct cairn_fiber *f)
{
	struct side here = {0};
	f->thread = &here;
	set_current(f);
#if defined(__SANITIZE_ADDRESS__)
	__sanitizer_start_switch_fiber(&here.fake_stack, f->side.bottom, f->side.size);
#endif
#if defined(__SANITIZE_THREAD__)
	here.tsan = __tsan_get_current_fiber();
	__tsan_switch_to_fiber(f->side.tsan, 0);
#endif
	switch_stacks(&here, &f->side);
#if defined(__SANITIZE_ADDRESS__)
	__sanitizer_finish_switch_fiber(here.fake_stack, NULL, NULL);
#endif
	set_current(NULL);
}

/* The fiber was just entered. Only now can it ask for the bounds of the stack it came from, which
 * it needs to go back. */
static void arrive(struct cairn_fiber *f)
{
	(void)f;
#if defined(__SANITIZE_ADDRESS__)
	__sanitizer_finish_switch_fiber(f->side.fake_stack, &f->thread->bottom, &f->thread->size);
#endif
}

/* Back to the thread that runs the fiber. Returns when the fiber is entered again, maybe by
 * another thread. */
static void leave(struct cairn_fiber *f)
{
	struct side *thread = f->thread;
#if defined(__SANITIZE_ADDRESS__)
	__sanitizer_start_switch_fiber(f->dying ? NULL : &f->side.fake_stack, thread->bottom,
				       thread->size);
#endif
#if defined(__SANITIZE_THREAD__)
	__tsan_switch_to_fiber(thread->tsan, 0);
#endif
	switch_stacks(&f->side, thread);
	arrive(f);
}

static void fiber_main(struct cairn_fiber *f)
{
	arrive(f);
	while (!f->dying) {
		f->entry(f->arg);
		f->park_fn = NULL; /* says: ended */
		leave(f);
	}
	leave(f);
	abort(); /* a dead fiber was run */
}

/* ---- stacks ------------------------------------------------------------------------------------
 */

static struct cairn_fiber *make(struct cairn_fiber_pool *pool)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct cairn_fiber *f = calloc(1, sizeof(*f));
	if (f == NULL) return NULL;
	f->map_bytes = page + STACK_BYTES;
	f->map = mmap(NULL, f->map_bytes, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	if (f->map == MAP_FAILED) {
		free(f);
		return NULL;
	}
	if (mprotect(f->map, page, PROT_NONE) != 0) {
		munmap(f->map, f->map_bytes);
		free(f);
		return NULL;
	}
	f->pool = pool;
	prepare_stack(f, f->map + page);
#if defined(__SANITIZE_ADDRESS__)
	f->side.bottom = f->map + page;
	f->side.size = STACK_BYTES;
	__lsan_register_root_region(f->map + page, STACK_BYTES);
#endif
#if defined(__SANITIZE_THREAD__)
	f->side.tsan = __tsan_create_fiber(0);
#endif
	return f;
}

/* The fiber waits in fiber_main, or has never run. */
static void destroy(struct cairn_fiber *f)
{
	f->dying = true;
	enter(f); /* so that the sanitizers see its end */
#if defined(__SANITIZE_THREAD__)
	__tsan_destroy_fiber(f->side.tsan);
#endif
#if defined(__SANITIZE_ADDRESS__)
	__lsan_unregister_root_region(f->side.bottom, STACK_BYTES);
	ASAN_UNPOISON_MEMORY_REGION(f->side.bottom, STACK_BYTES);
#endif
	munmap(f->map, f->map_bytes);
	free(f);
}

static void recycle(struct cairn_fiber *f)
{
	struct cairn_fiber_pool *pool = f->pool;
	pthread_mutex_lock(&pool->mu);
	bool keep = pool->n_idle < POOL_MAX;
	if (keep) {
		f->next = pool->idle;
		pool->idle = f;
		pool->n_idle++;
	}
	pthread_mutex_unlock(&pool->mu);
	if (!keep) destroy(f);
}

struct cairn_fiber *cairn_fiber_new(struct cairn_fiber_pool *pool, void (*entry)(void *arg),
				    void (*done)(void *arg), void *arg)
{
	pthread_mutex_lock(&pool->mu);
	struct cairn_fiber *f = pool->idle;
	if (f != NULL) {
		pool->idle = f->next;
		pool->n_idle--;
	}
	pthread_mutex_unlock(&pool->mu);
	if (f == NULL) f = make(pool);
	if (f == NULL) return NULL;
	f->entry = entry;
	f->done = done;
	f->arg = arg;
	return f;
}

void *cairn_fiber_arg(const struct cairn_fiber *f)
{
	return f->arg;
}

void cairn_fiber_run(struct cairn_fiber *f)
{
	assert(cairn_fiber_current() == NULL);
	bool (*fn)(void *);
	void *arg;
	do {
		enter(f);
		fn = f->park_fn;
		arg = f->park_arg;
		if (fn == NULL) {
			void (*done)(void *) = f->done;
			arg = f->arg;
			recycle(f);
			done(arg);
			return;
		}
	} while (fn(arg));
}

void cairn_fiber_park(bool (*fn)(void *arg), void *arg)
{
	struct cairn_fiber *f = cairn_fiber_current();
	assert(f != NULL);
	f->park_fn = fn;
	f->park_arg = arg;
	leave(f);
}

struct cairn_fiber_pool *cairn_fiber_pool_new(void)
{
	struct cairn_fiber_pool *pool = calloc(1, sizeof(*pool));
	if (pool == NULL) abort();
	pthread_mutex_init(&pool->mu, NULL);
	return pool;
}

void cairn_fiber_pool_free(struct cairn_fiber_pool *pool)
{
	if (pool == NULL) return;
	while (pool->idle != NULL) {
		struct cairn_fiber *f = pool->idle;
		pool->idle = f->next;
		destroy(f);
	}
	pthread_mutex_destroy(&pool->mu);
	free(pool);
}
