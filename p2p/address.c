#include "p2p/address.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"

#define PORT_MAX 65535
#define LOOKUP_STACK (256u << 10)

/* ---- text ---- */

static bool is_port(const char *s, bool zero)
{
	unsigned n = 0, i = 0;
	for (; s[i] >= '0' && s[i] <= '9' && i < 5; i++) n = n * 10 + (unsigned)(s[i] - '0');
	return i > 0 && s[i] == '\0' && n <= PORT_MAX && (n > 0 || zero);
}

static bool is_v6(const char *host)
{
	struct in6_addr addr;
	return inet_pton(AF_INET6, host, &addr) == 1;
}

static bool is_name(const char *host)
{
	if (host[0] == '\0' || host[0] == '-' || host[0] == '.') return false;
	for (const char *p = host; *p != '\0'; p++) {
		if (!isalnum((unsigned char)*p) && strchr("-._", *p) == NULL) return false;
	}
	return true;
}

enum cairn_code cairn_address_parse(const char *text, bool port_zero, struct cairn_address *ret,
				    struct cairn_err *err)
{
	const char *colon = strrchr(text, ':');
	bool bracket = text[0] == '[';
	struct cairn_address parsed;
	if (colon != NULL && is_port(colon + 1, port_zero) && strlen(text) < CAIRN_ADDRESS_MAX) {
		const char *host = text + bracket;
		size_t n = (size_t)(colon - host);
		bool closed = !bracket || (n > 1 && host[n - 1] == ']');
		if (bracket && closed) n--;
		if (closed && n < sizeof(parsed.host)) {
			memcpy(parsed.host, host, n);
			parsed.host[n] = '\0';
			memcpy(parsed.port, colon + 1, strlen(colon + 1) + 1);
			if (bracket ? is_v6(parsed.host) : is_name(parsed.host)) {
				*ret = parsed;
				return CAIRN_OK;
			}
		}
	}
	char shown[101]; /* it may come from a stranger */
	size_t n = 0;
	for (; n < sizeof(shown) - 1 && text[n] != '\0'; n++) {
		shown[n] = isprint((unsigned char)text[n]) ? text[n] : '?';
	}
	shown[n] = '\0';
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
			     "\"%s\" is no address: host:port is one, and [IPv6 address]:port",
			     shown);
}

void cairn_address_format(const struct sockaddr *addr, char ret[static CAIRN_ADDRESS_MAX])
{
	char host[INET6_ADDRSTRLEN] = "?";
	if (addr->sa_family == AF_INET) {
		struct sockaddr_in v4;
		memcpy(&v4, addr, sizeof(v4));
		(void)inet_ntop(AF_INET, &v4.sin_addr, host, sizeof(host));
		(void)snprintf(ret, CAIRN_ADDRESS_MAX, "%s:%u", host, ntohs(v4.sin_port));
	} else if (addr->sa_family == AF_INET6) {
		struct sockaddr_in6 v6;
		memcpy(&v6, addr, sizeof(v6));
		(void)inet_ntop(AF_INET6, &v6.sin6_addr, host, sizeof(host));
		(void)snprintf(ret, CAIRN_ADDRESS_MAX, "[%s]:%u", host, ntohs(v6.sin6_port));
	} else {
		(void)snprintf(ret, CAIRN_ADDRESS_MAX, "?");
	}
}

/* ---- names ---- */

/* Shared by who asks and the thread that looks it up; the last of them frees it. */
struct lookup {
	atomic_int refs;
	struct cairn_address address;
	int done_fd;   /* eventfd */
	atomic_int rc; /* its store comes after that of found */
	struct addrinfo *found;
};

static int look_up(const struct cairn_address *address, int flags, struct addrinfo **ret)
{
	const struct addrinfo hints = {.ai_flags = flags | AI_NUMERICSERV,
				       .ai_family = AF_UNSPEC,
				       .ai_socktype = SOCK_STREAM};
	return getaddrinfo(address->host, address->port, &hints, ret);
}

static void lookup_unref(struct lookup *lookup)
{
	if (atomic_fetch_sub(&lookup->refs, 1) > 1) return;
	if (lookup->found != NULL) freeaddrinfo(lookup->found);
	(void)close(lookup->done_fd);
	free(lookup);
}

static void *lookup_main(void *arg)
{
	struct lookup *lookup = arg;
	int rc = look_up(&lookup->address, 0, &lookup->found);
	atomic_store(&lookup->rc, rc);
	(void)eventfd_write(lookup->done_fd, 1);
	lookup_unref(lookup);
	return NULL;
}

static struct lookup *lookup_start(const struct cairn_address *address, struct cairn_err *err)
{
	struct lookup *lookup = calloc(1, sizeof(*lookup));
	if (lookup == NULL) abort();
	lookup->address = *address;
	lookup->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	atomic_init(&lookup->refs, 2);
	int rc = lookup->done_fd < 0 ? errno : 0;
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, LOOKUP_STACK);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_t thread;
	if (rc == 0) rc = pthread_create(&thread, &attr, lookup_main, lookup);
	pthread_attr_destroy(&attr);
	if (rc == 0) return lookup;
	if (lookup->done_fd >= 0) (void)close(lookup->done_fd);
	free(lookup);
	cairn_err_set(err, CAIRN_UNAVAILABLE, "look up %s: %s", address->host, strerror(rc));
	return NULL;
}

/* 0: done_fd is readable. */
static enum cairn_code wait_lookup(int done_fd, int stop_fd, int64_t end_ns)
{
	for (;;) {
		int64_t left_ns = end_ns - cairn_boot_ns(&cairn_clock_system);
		if (left_ns <= 0) return CAIRN_DEADLINE_EXCEEDED;
		int64_t left_ms = (left_ns + CAIRN_NS_PER_MS - 1) / CAIRN_NS_PER_MS;
		struct pollfd fds[] = {{done_fd, POLLIN, 0}, {stop_fd, POLLIN, 0}};
		int n = poll(fds, 2, left_ms < 60000 ? (int)left_ms : 60000);
		if (n > 0 && fds[1].revents != 0) return CAIRN_CANCELLED;
		if (n > 0 && fds[0].revents != 0) return CAIRN_OK;
	}
}

enum cairn_code cairn_address_resolve(const struct cairn_address *address, int stop_fd,
				      int64_t end_ns, struct addrinfo **ret, struct cairn_err *err)
{
	if (look_up(address, AI_NUMERICHOST, ret) == 0) return CAIRN_OK;
	struct lookup *lookup = lookup_start(address, err);
	if (lookup == NULL) return err->code;
	enum cairn_code rc = wait_lookup(lookup->done_fd, stop_fd, end_ns);
	if (rc == CAIRN_CANCELLED) {
		cairn_err_set(err, rc, "look up %s: cancelled", address->host);
	} else if (rc == CAIRN_DEADLINE_EXCEEDED) {
		cairn_err_set(err, rc, "look up %s: too slow", address->host);
	} else if (atomic_load(&lookup->rc) != 0) {
		rc = cairn_err_set(err, CAIRN_UNAVAILABLE, "look up %s: %s", address->host,
				   gai_strerror(atomic_load(&lookup->rc)));
	} else {
		*ret = cairn_steal(&lookup->found);
	}
	lookup_unref(lookup);
	return rc;
}
