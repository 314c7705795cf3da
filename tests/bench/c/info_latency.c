/* The latency of Info as a client without a runtime of its own sees it: one query at a time over
 * the daemon's socket. Go's client costs more than the whole answer, so its figures say little of
 * ours.
 *
 *   bench_info SOCKET DIGEST SECONDS      prints {"ops":…,"p50_us":…,"p99_us":…,"max_us":…} */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "content.pb-c.h"
#include "rpc/rpc.h"

#define SAMPLES_MAX 2000000
#define CALL_TIMEOUT_MS 10000

static int by_value(const void *a, const void *b)
{
	const int64_t *x = a, *y = b;
	return (*x > *y) - (*x < *y);
}

static int fail(const struct cairn_err *err)
{
	fprintf(stderr, "bench_info: %s\n", err->msg);
	return EXIT_FAILURE;
}

static enum cairn_code ask(struct cairn_channel *channel, char *digest, struct cairn_err *err)
{
	Containerd__Services__Content__V1__InfoRequest req;
	containerd__services__content__v1__info_request__init(&req);
	req.digest = digest;
	ProtobufCMessage *resp = NULL;
	enum cairn_code rc = cairn_channel_unary(
		channel, "/containerd.services.content.v1.Content/Info", NULL, 0, CALL_TIMEOUT_MS,
		&req.base, &containerd__services__content__v1__info_response__descriptor, &resp,
		err);
	if (rc == CAIRN_OK) protobuf_c_message_free_unpacked(resp, NULL);
	return rc;
}

/* Returns the number of samples; 0: err is set. */
static size_t sample(struct cairn_channel *channel, char *digest, double seconds, int64_t *took,
		     struct cairn_err *err)
{
	const struct cairn_clock *clock = &cairn_clock_system;
	if (ask(channel, digest, err) != CAIRN_OK) return 0; /* connects */
	int64_t end = cairn_boot_ns(clock) + (int64_t)(seconds * (double)CAIRN_NS_PER_S);
	size_t n = 0;
	for (int64_t t = cairn_boot_ns(clock); (n == 0 || t < end) && n < SAMPLES_MAX;) {
		if (ask(channel, digest, err) != CAIRN_OK) return 0;
		int64_t now = cairn_boot_ns(clock);
		took[n++] = now - t;
		t = now;
	}
	return n;
}

static int measure(struct cairn_channel *channel, char *digest, double seconds)
{
	struct cairn_err err;
	int64_t *took = malloc(SAMPLES_MAX * sizeof(*took));
	if (took == NULL) abort();
	size_t n = sample(channel, digest, seconds, took, &err);
	if (n > 0) {
		qsort(took, n, sizeof(*took), by_value);
		printf("{\"ops\":%zu,\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f}\n", n,
		       (double)took[n / 2] / 1e3, (double)took[n / 100 * 99] / 1e3,
		       (double)took[n - 1] / 1e3);
	}
	free(took);
	return n > 0 ? EXIT_SUCCESS : fail(&err);
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: bench_info SOCKET DIGEST SECONDS\n");
		return 2;
	}
	struct cairn_err err;
	struct cairn_rpc *rpc = NULL;
	struct cairn_channel *channel = NULL;
	char target[256];
	snprintf(target, sizeof(target), "unix:%s", argv[1]);
	if (cairn_rpc_new(&(struct cairn_rpc_opts){.pollers = 1, .workers = 1}, &rpc, &err) !=
	    CAIRN_OK)
		return fail(&err);
	int status = EXIT_FAILURE;
	if (cairn_channel_new(rpc, target, NULL, &channel, &err) == CAIRN_OK) {
		status = measure(channel, argv[2], atof(argv[3]));
	} else {
		fail(&err);
	}
	cairn_channel_free(channel);
	cairn_rpc_free(rpc);
	return status;
}
