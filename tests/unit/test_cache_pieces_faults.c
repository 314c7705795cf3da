/* Pieces and a disk that fails. Faults are put in by the linker (--wrap). */
#include <sched.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "cache/evict.h"
#include "support/pieces.h"

#define MIB (1u << 20)

enum call { PWRITE, FDATASYNC, FSYNC, RENAMEAT, CALLS };

static atomic_int counts[CALLS], fail_at[CALLS], fail_with[CALLS];
static atomic_int sequence;    /* calls of any kind but writes so far */
static atomic_int when[CALLS]; /* at which of them it was called last */

static int before_call(enum call which)
{
	counts[which]++;
	if (which != PWRITE) when[which] = ++sequence;
	return fail_at[which] > 0 && --fail_at[which] == 0 ? fail_with[which] : 0;
}

#define WRAP(which, call)                                                                          \
	do {                                                                                       \
		int errnum_ = before_call(which);                                                  \
		if (errnum_ != 0) {                                                                \
			errno = errnum_;                                                           \
			return -1;                                                                 \
		}                                                                                  \
		return (call);                                                                     \
	} while (0)

ssize_t __real_pwrite(int fd, const void *buf, size_t n, off_t at);
ssize_t __wrap_pwrite(int fd, const void *buf, size_t n, off_t at);
ssize_t __wrap_pwrite(int fd, const void *buf, size_t n, off_t at)
{
	WRAP(PWRITE, __real_pwrite(fd, buf, n, at));
}

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_fdatasync(int fd)
{
	WRAP(FDATASYNC, __real_fdatasync(fd));
}

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
	WRAP(FSYNC, __real_fsync(fd));
}

int __real_renameat(int a, const char *from, int b, const char *to);
int __wrap_renameat(int a, const char *from, int b, const char *to);
int __wrap_renameat(int a, const char *from, int b, const char *to)
{
	WRAP(RENAMEAT, __real_renameat(a, from, b, to));
}

static void calm(void)
{
	for (size_t i = 0; i < CALLS; i++) counts[i] = fail_at[i] = when[i] = 0;
	sequence = 0;
}

static int setup(void **state)
{
	calm();
	return store_setup_open(state);
}

static int teardown(void **state)
{
	calm();
	return store_teardown(state);
}

static void fail_next(enum call which, int errnum)
{
	fail_with[which] = errnum;
	fail_at[which] = 1;
}

static void publish__flushes_before_it_renames_and_the_folder_after(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(3 * MIB + 1, 1);
	uint8_t *list = list_of(&c);
	struct cairn_pieces *p = pieces_open(s, &c);
	calm();
	put_all(p, &c, list);
	assert_int_equal(sequence, 0);
	assert_ok(cairn_pieces_publish(p, &err));
	assert_int_equal(counts[FDATASYNC], 1);
	assert_int_equal(counts[RENAMEAT], 1);
	assert_int_equal(counts[FSYNC], 1);
	assert_true(when[FDATASYNC] < when[RENAMEAT] && when[RENAMEAT] < when[FSYNC]);
	cairn_pieces_close(p, true);
	free(list);
	content_free(&c);
}

static void write__that_fails_loses_that_piece_only(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(2 * MIB + 1, 2);
	uint8_t *list = list_of(&c);
	struct cairn_pieces *p = pieces_open(s, &c);
	assert_ok(put_piece(p, &c, list, 0, c.data, MIB, &err));
	fail_next(PWRITE, ENOSPC);
	assert_code(put_piece(p, &c, list, 1, c.data, 1000, &err), CAIRN_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(err.msg, s->dir));
	fail_next(PWRITE, EIO);
	assert_code(put_piece(p, &c, list, 1, c.data, 1000, &err), CAIRN_INTERNAL);
	assert_false(cairn_pieces_has(p, 1));
	assert_true(cairn_pieces_has(p, 0));
	/* The same bytes may be given once more. */
	struct cairn_piece_writer w;
	cairn_piece_begin(p, 1, before(&c, list, 1), &w);
	fail_next(PWRITE, ENOSPC);
	assert_code(cairn_piece_write(&w, c.data + MIB, MIB, &err), CAIRN_RESOURCE_EXHAUSTED);
	assert_ok(cairn_piece_write(&w, c.data + MIB, MIB, &err));
	assert_ok(cairn_piece_end(&w, entry(&c, list, 1), &err));
	put_all(p, &c, list);
	assert_ok(cairn_pieces_publish(p, &err));
	cairn_pieces_close(p, true);
	assert_ok(read_and_compare(s, &c, &err));
	free(list);
	content_free(&c);
}

/* The second writer of a piece writes at its end. */
static void end__of_a_kept_piece_may_fail_too(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(MIB + 1, 3);
	uint8_t *list = list_of(&c), *buf = malloc(MIB);
	struct cairn_pieces *p = pieces_open(s, &c);
	struct cairn_piece_writer a, b;
	cairn_piece_begin(p, 0, NULL, &a);
	assert_ok(cairn_piece_write(&a, c.data, MIB / 2, &err));
	cairn_piece_begin(p, 0, NULL, &b);
	assert_ok(cairn_piece_write(&b, c.data, MIB, &err));
	fail_next(PWRITE, ENOSPC);
	assert_code(cairn_piece_end(&b, list, &err), CAIRN_RESOURCE_EXHAUSTED);
	assert_false(cairn_pieces_has(p, 0));
	assert_ok(cairn_piece_write(&a, c.data + MIB / 2, MIB / 2, &err));
	assert_ok(cairn_piece_end(&a, list, &err));
	assert_ok(cairn_pieces_read(p, 0, buf, MIB, &err));
	assert_memory_equal(buf, c.data, MIB);
	cairn_pieces_close(p, false);
	free(buf);
	free(list);
	content_free(&c);
}

/* After a failed flush nobody knows what the disk has, and the next flush would not say. */
static void flush__that_fails_drops_the_file(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(MIB + 1, 4);
	uint8_t *list = list_of(&c);
	static const int errnums[] = {EIO, ENOSPC};
	for (size_t i = 0; i < CAIRN_LEN(errnums); i++) {
		struct cairn_pieces *p = pieces_open(s, &c);
		put_all(p, &c, list);
		fail_next(FDATASYNC, errnums[i]);
		assert_code(cairn_pieces_publish(p, &err),
			    errnums[i] == EIO ? CAIRN_INTERNAL : CAIRN_RESOURCE_EXHAUSTED);
		assert_int_equal(state_of(s, &c.digest), 0);
		assert_int_equal(count_files(s, "ingest"), 0);
		assert_int_equal(cairn_pieces_done(p), 0);
		assert_code(put_piece(p, &c, list, 0, c.data, MIB, &err), CAIRN_ABORTED);
		assert_code(cairn_pieces_publish(p, &err), CAIRN_INTERNAL);
		cairn_pieces_close(p, true);
		assert_int_equal(count_files(s, "ingest"), 0);
	}
	struct cairn_pieces *p = pieces_open(s, &c);
	put_all(p, &c, list);
	assert_ok(cairn_pieces_publish(p, &err));
	cairn_pieces_close(p, true);
	assert_ok(read_and_compare(s, &c, &err));
	free(list);
	content_free(&c);
}

static void publish__that_fails_shows_nothing_and_can_be_repeated(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(MIB + 1, 5);
	uint8_t *list = list_of(&c);
	static const enum call calls[] = {RENAMEAT, FSYNC};
	struct cairn_pieces *p = pieces_open(s, &c);
	put_all(p, &c, list);
	for (size_t i = 0; i < CAIRN_LEN(calls); i++) {
		fail_next(calls[i], EIO);
		assert_code(cairn_pieces_publish(p, &err), CAIRN_INTERNAL);
		assert_int_equal(state_of(s, &c.digest), 0);
		assert_int_equal(count_files(s, "blobs/sha256"), 0);
		assert_int_equal(count_files(s, "ingest"), 1);
		assert_int_equal(cairn_pieces_done(p), 2);
	}
	/* And the file can be opened again. */
	cairn_pieces_close(p, true);
	p = pieces_open(s, &c);
	assert_true(cairn_pieces_recover(p, 0, NULL, list));
	assert_true(cairn_pieces_recover(p, 1, list, NULL));
	assert_ok(cairn_pieces_publish(p, &err));
	cairn_pieces_close(p, true);
	assert_ok(read_and_compare(s, &c, &err));
	free(list);
	content_free(&c);
}

/* ---- a disk that is really full */

static void fill_up(struct store *s)
{
	struct cairn_err err;
	struct content c = content_new(20 * MIB, 6), small = content_new(MIB + 1, 7);
	uint8_t *list = list_of(&c), *small_list = list_of(&small);
	enum cairn_code code = CAIRN_OK;
	uint32_t k = 0;
	store_open(s);
	struct cairn_pieces *p = pieces_open(s, &c);
	while (k < 20 && code == CAIRN_OK) {
		code = put_piece(p, &c, list, k, c.data, 100000, &err);
		k += code == CAIRN_OK;
	}
	if (code != CAIRN_RESOURCE_EXHAUSTED || k < 4) _exit(3);
	if (cairn_pieces_done(p) != k) _exit(4);
	uint8_t *buf = malloc(MIB);
	if (cairn_pieces_read(p, (k - 1) * (uint64_t)MIB, buf, MIB, &err) != CAIRN_OK) _exit(5);
	if (memcmp(buf, c.data + (k - 1) * (size_t)MIB, MIB) != 0) _exit(6);
	cairn_pieces_close(p, true);
	/* What gets the room back. */
	if (cairn_cache_expire_ingests(s->cache, 0) != 1) _exit(7);
	p = pieces_open(s, &small);
	put_all(p, &small, small_list);
	if (cairn_pieces_publish(p, &err) != CAIRN_OK) _exit(8);
	cairn_pieces_close(p, true);
	if (read_and_compare(s, &small, &err) != CAIRN_OK) _exit(9);
	store_close(s);
	free(buf);
	free(list);
	free(small_list);
	content_free(&c);
	content_free(&small);
}

static void full_disk__fails_that_piece_alone(void **state)
{
	struct store *s = *state;
	store_close(s);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (unshare(CLONE_NEWNS) != 0 ||
		    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
		    mount("tmpfs", s->dir, "tmpfs", 0, "size=16m") != 0) {
			_exit(77);
		}
		fill_up(s);
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) skip();
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

#define fault_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	cairn_log_set_level(CAIRN_LOG_ERROR + 1);
	const struct CMUnitTest tests[] = {
		fault_test(publish__flushes_before_it_renames_and_the_folder_after),
		fault_test(write__that_fails_loses_that_piece_only),
		fault_test(end__of_a_kept_piece_may_fail_too),
		fault_test(flush__that_fails_drops_the_file),
		fault_test(publish__that_fails_shows_nothing_and_can_be_repeated),
		fault_test(full_disk__fails_that_piece_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
