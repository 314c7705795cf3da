/* Servers of one connection each, and who watches calls. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include "support/rpc_fixture.h"

#define ROUNDS 40

struct session {
	struct cairn_rpc_server *server;
	struct cairn_channel *channel;
	bool refused; /* every call of it is */
	char name[16];
	/* what it was told */
	_Atomic int asked, ended;
	_Atomic int code;
	pthread_mutex_t mu;
	char path[256], digest[64], error[256]; /* guarded by mu; of the last call */
};

static enum cairn_code admit(void *arg, const char *path, struct cairn_err *err)
{
	struct session *s = arg;
	s->asked++;
	if (!s->refused) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_PERMISSION_DENIED, "%s may not call %s", s->name, path);
}

static void ended(void *arg, const struct cairn_call_end *end)
{
	struct session *s = arg;
	pthread_mutex_lock(&s->mu);
	snprintf(s->path, sizeof(s->path), "%s", end->path);
	snprintf(s->error, sizeof(s->error), "%s", end->error);
	snprintf(s->digest, sizeof(s->digest), "%s",
		 end->request != NULL ? ((const read_req *)(const void *)end->request)->digest
				      : "-");
	pthread_mutex_unlock(&s->mu);
	s->code = (int)end->code;
	s->ended++;
}

/* A connected pair of TCP sockets: the one that accepts is adopted, the channel has the other. */
static void begin(struct fixture *f, struct session *s, const char *name, bool refused)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(at);
	struct cairn_err err;
	char target[32];
	read_resp *r = NULL;
	*s = (struct session){.refused = refused};
	snprintf(s->name, sizeof(s->name), "%s", name);
	pthread_mutex_init(&s->mu, NULL);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, n), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &n), 0);
	snprintf(target, sizeof(target), "127.0.0.1:%u", ntohs(at.sin_port));
	OK(cairn_rpc_server_new_small(f->rpc, &s->server, &err));
	cairn_rpc_server_add(s->server, test_methods, CAIRN_LEN(test_methods), &f->service);
	const struct cairn_rpc_watch watch = {.admit = admit, .ended = ended, .arg = s};
	cairn_rpc_server_watch(s->server, &watch);
	OK(cairn_rpc_server_start(s->server, &err));
	OK(cairn_channel_new(f->rpc, target, NULL, &s->channel, &err));
	/* It connects when it is first used: a call that is over before it can be served. */
	for (struct pollfd come = {fd, POLLIN, 0}; poll(&come, 1, 20) == 0;) {
		assert_int_not_equal(ask(s->channel, "echo", 0, 0, 1, &r, &err), CAIRN_OK);
	}
	int accepted = accept(fd, NULL, NULL);
	assert_true(accepted >= 0);
	(void)close(fd);
	cairn_rpc_server_adopt(s->server, accepted);
}

static void end(struct session *s)
{
	cairn_channel_free(s->channel);
	(void)cairn_rpc_server_drain(s->server, 0);
	assert_int_equal(s->asked, s->ended);
	cairn_rpc_server_free(s->server);
	pthread_mutex_destroy(&s->mu);
}

static void watch__is_asked_before_and_told_after(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct session s;
	read_resp *r = NULL;
	begin(f, &s, "good", false);
	int entered = f->service.entered;
	OK(ask(s.channel, "echo", 7, 10, 20000, &r, &err));
	free_resp(r);
	UNTIL(s.ended >= 1 && s.ended == s.asked);
	assert_string_equal(s.path, UNARY);
	assert_string_equal(s.digest, "echo");
	assert_string_equal(s.error, "");
	assert_int_equal(s.code, CAIRN_OK);
	int before = s.ended;
	assert_int_equal(ask(s.channel, "fail", CAIRN_DATA_LOSS, 0, 20000, &r, &err),
			 CAIRN_DATA_LOSS);
	UNTIL(s.ended == before + 1);
	assert_string_equal(s.error, "failed as asked");
	assert_int_equal(s.code, CAIRN_DATA_LOSS);
	/* What is not served is asked about, and told, too. */
	read_req q = READ_REQ_INIT;
	ProtobufCMessage *m;
	char path[300] = "/";
	memset(path + 1, 'x', sizeof(path) - 2);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(
		cairn_channel_unary(s.channel, path, NULL, 0, 20000, &q.base, &READ_RESP, &m, &err),
		CAIRN_UNIMPLEMENTED);
	UNTIL(s.ended == before + 2);
	assert_int_equal(strlen(s.path), 128);
	assert_string_equal(s.digest, "-");
	assert_int_equal(f->service.entered, entered + 2);
	end(&s);
}

static void watch__refuses(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct session s;
	read_resp *r = NULL;
	begin(f, &s, "bad", true);
	int entered = f->service.entered;
	assert_int_equal(ask(s.channel, "echo", 0, 0, 20000, &r, &err), CAIRN_PERMISSION_DENIED);
	assert_string_equal(err.msg, "bad may not call " UNARY);
	struct cairn_call *call = ask_stream(s.channel, "count", 0, 10, 20000);
	assert_int_equal(cairn_call_finish(call, &err), CAIRN_PERMISSION_DENIED);
	OK(cairn_channel_open(s.channel, BIDI, NULL, 0, 20000, &call, &err));
	assert_int_equal(cairn_call_finish(call, &err), CAIRN_PERMISSION_DENIED);
	UNTIL(s.ended == s.asked && s.ended >= 3);
	assert_string_equal(s.digest, "-"); /* nothing of it was decoded */
	assert_int_equal(f->service.entered, entered);
	end(&s);
}

static void large_request__is_refused(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct session s;
	begin(f, &s, "good", false);
	static char text[CAIRN_RPC_SMALL_MESSAGE_MAX + 1000];
	memset(text, 'x', sizeof(text) - 1);
	read_req q = READ_REQ_INIT;
	ProtobufCMessage *m;
	q.digest = text;
	assert_int_equal(cairn_channel_unary(s.channel, UNARY, NULL, 0, 20000, &q.base, &READ_RESP,
					     &m, &err),
			 CAIRN_RESOURCE_EXHAUSTED);
	end(&s);
}

static void drain__ends_a_call_that_waits(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct session s;
	begin(f, &s, "good", false);
	int entered = f->service.entered, left = f->service.left;
	struct cairn_call *call = ask_stream(s.channel, "wait", 0, 60000, 20000);
	UNTIL(f->service.entered == entered + 1);
	assert_int_equal(cairn_rpc_server_drain(s.server, 20000), 0);
	assert_int_equal(f->service.left, left + 1);
	assert_int_equal(s.asked, s.ended);
	(void)!cairn_call_finish(call, &err);
	cairn_rpc_server_free(s.server);
	cairn_channel_free(s.channel);
	pthread_mutex_destroy(&s.mu);
}

static void hang_up__is_a_caller_who_went(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct session s;
	begin(f, &s, "good", false);
	int entered = f->service.entered, left = f->service.left;
	struct cairn_call *call = ask_stream(s.channel, "wait", 0, 60000, 20000);
	UNTIL(f->service.entered == entered + 1);
	cairn_rpc_server_hang_up(s.server);
	assert_int_equal(f->service.left, left + 1);
	assert_int_equal(f->service.last_wake, CAIRN_WAKE_GONE);
	assert_int_equal(s.asked, s.ended);
	(void)!cairn_call_finish(call, &err);
	cairn_rpc_server_free(s.server);
	cairn_channel_free(s.channel);
	pthread_mutex_destroy(&s.mu);
}

/* ---- many ---- */

struct worker {
	struct fixture *f;
	bool refused;
	int wrong;
};

/* Connections come and go, and numbers of descriptors with them; each call is that of its server.
 */
static void *come_and_go(void *arg)
{
	struct worker *w = arg;
	for (int i = 0; i < ROUNDS; i++) {
		struct session s;
		struct cairn_err err;
		read_resp *r = NULL;
		begin(w->f, &s, w->refused ? "bad" : "good", w->refused);
		enum cairn_code rc = ask(s.channel, "echo", i, 0, 20000, &r, &err);
		w->wrong += rc != (w->refused ? CAIRN_PERMISSION_DENIED : CAIRN_OK);
		if (rc == CAIRN_OK) free_resp(r);
		end(&s);
	}
	return NULL;
}

static void callers__are_not_confused(void **state)
{
	struct fixture *f = *state;
	struct worker workers[4];
	pthread_t threads[CAIRN_LEN(workers)];
	for (size_t i = 0; i < CAIRN_LEN(workers); i++) {
		workers[i] = (struct worker){.f = f, .refused = i % 2 == 1};
		assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, &workers[i]), 0);
	}
	for (size_t i = 0; i < CAIRN_LEN(workers); i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(workers[i].wrong, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(watch__is_asked_before_and_told_after),
		TEST(watch__refuses),
		TEST(large_request__is_refused),
		TEST(drain__ends_a_call_that_waits),
		TEST(hang_up__is_a_caller_who_went),
		TEST(callers__are_not_confused),
	};
	return cmocka_run_group_tests_name("rpc/adopt", tests, NULL, NULL);
}
