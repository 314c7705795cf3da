/* A curl multi handle, which keeps the connections, and one easy handle, used again for each
 * request. The multi interface is driven by hand, so that whoever waits is asked ten times a second
 * whether to go on, also while names are resolved or nothing comes.
 *
 * Redirects are followed here and not by curl: the rules about where a redirect may go and what it
 * may take along are ours, and few enough to be read. */
#include "oci/http.h"

#include <ctype.h>
#include <curl/curl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "oci/url.h"

#define POLL_MS 100
#define ASK_NS (50 * CAIRN_NS_PER_MS) /* between two questions to go_on */
#define HEADERS_MS 60000	      /* until an answer's headers are there */
#define RETRY_MAX_S 3600	      /* of Retry-After, before anybody bounds it to what is sane */
#define BUFFER_BYTES 524288L	      /* curl's largest */
#define CONNECTIONS_MAX 8L	      /* kept: a registry, its token server, its storage, mirrors */

struct cairn_http_client {
	struct cairn_http_client_opts opts;
	char *user_agent;
	CURLM *multi;
	CURL *easy;
	char curl_error[CURL_ERROR_SIZE];
};

/* One request to one URL. */
struct hop {
	struct cairn_http_client *client;
	const struct cairn_http_request *request;
	const struct cairn_go_on *go_on;
	const struct cairn_url *url;
	struct cairn_http_answer *answer;
	struct cairn_err *err;
	enum cairn_code code; /* why we ended it; OK: we did not */
	bool enough;	      /* we ended it because no more of an error's body is wanted */
	bool headers_done, filled;
	char *location; /* owned */
	size_t header_bytes;
	int64_t begin_ns, last_ns, asked_ns; /* last: when a byte came */
	int64_t deadline_ns;		     /* INT64_MAX: none */
};

static int64_t now_ns(void)
{
	return cairn_boot_ns(&cairn_clock_system);
}

/* ---- clients ---------------------------------------------------------------------------------
 */

static CURLcode global_rc;

static void global_init(void)
{
	global_rc = curl_global_init(CURL_GLOBAL_DEFAULT);
}

enum cairn_code cairn_http_client_new(const struct cairn_http_client_opts *opts,
				      struct cairn_http_client **ret, struct cairn_err *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, global_init);
	if (global_rc != CURLE_OK) {
		return cairn_err_set(err, CAIRN_INTERNAL, "initialise libcurl: %s",
				     curl_easy_strerror(global_rc));
	}
	struct cairn_http_client *client = calloc(1, sizeof(*client));
	if (client == NULL) abort();
	client->opts = *opts;
	client->user_agent = strdup(opts->user_agent != NULL ? opts->user_agent : "cairn");
	client->multi = curl_multi_init();
	client->easy = curl_easy_init();
	if (client->user_agent == NULL || client->multi == NULL || client->easy == NULL) abort();
	curl_multi_setopt(client->multi, CURLMOPT_MAXCONNECTS, CONNECTIONS_MAX);
	*ret = client;
	return CAIRN_OK;
}

void cairn_http_client_free(struct cairn_http_client *client)
{
	if (client == NULL) return;
	curl_easy_cleanup(client->easy);
	curl_multi_cleanup(client->multi);
	free(client->user_agent);
	free(client);
}

/* ---- answers ---------------------------------------------------------------------------------
 */

/* The value of the first header of that name, cut; "": none. */
static void take_header(CURL *easy, const char *name, char *buf, size_t cap)
{
	struct curl_header *header = NULL;
	buf[0] = '\0';
	if (curl_easy_header(easy, name, 0, CURLH_HEADER, -1, &header) != CURLHE_OK) return;
	snprintf(buf, cap, "%s", header->value);
}

static void take_challenge(CURL *easy, struct cairn_challenge *best)
{
	struct curl_header *header = NULL;
	*best = (struct cairn_challenge){0};
	for (size_t i = 0;
	     curl_easy_header(easy, "WWW-Authenticate", i, CURLH_HEADER, -1, &header) == CURLHE_OK;
	     i++) {
		struct cairn_challenge found;
		cairn_challenge_parse(header->value, strlen(header->value), &found);
		if (found.scheme > best->scheme) *best = found;
	}
}

static void fill_answer(struct hop *hop)
{
	CURL *easy = hop->client->easy;
	struct cairn_http_answer *answer = hop->answer;
	long status = 0;
	curl_off_t length = -1, retry_s = 0;
	if (hop->filled) return;
	hop->filled = true;
	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
	curl_easy_getinfo(easy, CURLINFO_RETRY_AFTER, &retry_s);
	answer->status = (int)status;
	answer->has_length = length >= 0;
	answer->length = length >= 0 ? (uint64_t)length : 0;
	if (retry_s > RETRY_MAX_S) retry_s = RETRY_MAX_S;
	answer->retry_ms = retry_s > 0 ? (int64_t)retry_s * 1000 : 0;
	take_header(easy, "Content-Type", answer->type, sizeof(answer->type));
	answer->type[strcspn(answer->type, "; \t")] = '\0';
	for (char *c = answer->type; *c != '\0'; c++) *c = (char)tolower((unsigned char)*c);
	take_header(easy, "Docker-Content-Digest", answer->digest, sizeof(answer->digest));
	take_header(easy, "Content-Range", answer->range, sizeof(answer->range));
	take_challenge(easy, &answer->challenge);
	struct curl_header *location = NULL;
	if (curl_easy_header(easy, "Location", 0, CURLH_HEADER, -1, &location) == CURLHE_OK) {
		hop->location = strdup(location->value);
		if (hop->location == NULL) abort();
	}
}

/* ---- while it runs ---------------------------------------------------------------------------
 */

/* End the request because of a bound of ours. */
static void end_hop(struct hop *hop, enum cairn_code code, const char *why, int64_t n,
		    const char *unit)
{
	char shown[CAIRN_URL_SHOW];
	hop->code = cairn_err_set(hop->err, code, "%s: %s %" PRId64 " %s",
				  cairn_url_show(hop->url->text, shown), why, n, unit);
}

/* Ask whoever waits, at most every ASK_NS. */
static bool goes_on(struct hop *hop)
{
	int64_t now = now_ns();
	if (now - hop->asked_ns < ASK_NS) return true;
	hop->asked_ns = now;
	if (cairn_goes_on(hop->go_on)) return true;
	hop->code = cairn_err_set(hop->err, CAIRN_CANCELLED, "cancelled");
	return false;
}

static bool in_time(struct hop *hop)
{
	int64_t now = now_ns(), stall_ms = hop->client->opts.stall_ms;
	if (now - hop->last_ns > stall_ms * CAIRN_NS_PER_MS) {
		end_hop(hop, CAIRN_UNAVAILABLE, "no byte came for", stall_ms, "ms");
	} else if (!hop->headers_done && now - hop->begin_ns > HEADERS_MS * CAIRN_NS_PER_MS) {
		end_hop(hop, CAIRN_UNAVAILABLE, "no headers came within", HEADERS_MS, "ms");
	} else if (now > hop->deadline_ns) {
		end_hop(hop, CAIRN_UNAVAILABLE, "was not done within", hop->request->total_ms,
			"ms");
	}
	return hop->code == CAIRN_OK;
}

static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
	struct hop *hop = arg;
	n *= size;
	hop->last_ns = now_ns();
	hop->header_bytes += n;
	if (hop->header_bytes > CAIRN_HTTP_HEADERS_MAX) {
		end_hop(hop, CAIRN_INVALID_ARGUMENT, "its headers are longer than",
			CAIRN_HTTP_HEADERS_MAX, "bytes");
		return 0;
	}
	if (n <= 2 && (line[0] == '\r' || line[0] == '\n')) {
		long status = 0;
		curl_easy_getinfo(hop->client->easy, CURLINFO_RESPONSE_CODE, &status);
		hop->headers_done = status >= 200;
	}
	return n;
}

static size_t keep_error(struct hop *hop, const char *data, size_t n)
{
	struct cairn_http_answer *answer = hop->answer;
	size_t room = sizeof(answer->error) - answer->error_len, kept = n < room ? n : room;
	memcpy(answer->error + answer->error_len, data, kept);
	answer->error_len += kept;
	hop->enough = kept < n;
	return hop->enough ? CURL_WRITEFUNC_ERROR : n;
}

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
	struct hop *hop = arg;
	n *= size;
	fill_answer(hop);
	hop->last_ns = now_ns();
	if (hop->answer->status >= 300) return keep_error(hop, data, n);
	if (!goes_on(hop)) return CURL_WRITEFUNC_ERROR;
	if (hop->request->body != NULL) {
		hop->code = hop->request->body(hop->request->arg, hop->answer, data, n, hop->err);
		if (hop->code != CAIRN_OK) {
			hop->answer->stopped = true;
			return CURL_WRITEFUNC_ERROR;
		}
	}
	int64_t wait_ns = cairn_rate_take(hop->client->opts.limit, n, now_ns());
	/* What is small and has its time bounded comes at once; the next blob pays for it. */
	if (wait_ns > 0 && hop->request->total_ms == 0) {
		hop->code = cairn_wait(wait_ns, hop->go_on, hop->err);
		if (hop->code != CAIRN_OK) return CURL_WRITEFUNC_ERROR;
	}
	hop->last_ns = now_ns(); /* what body and the limit took is not the server's stall */
	return n;
}

/* ---- one hop ---------------------------------------------------------------------------------
 */

static void add_line(struct curl_slist **list, const char *name, const char *value)
{
	char *line = NULL;
	if (asprintf(&line, "%s: %s", name, value) < 0) abort();
	struct curl_slist *longer = curl_slist_append(*list, line);
	if (longer == NULL) abort();
	*list = longer;
	cairn_secret_free(line);
}

static struct curl_slist *make_headers(const struct hop *hop)
{
	const struct cairn_http_request *request = hop->request;
	struct curl_slist *list = NULL;
	if (request->accept != NULL) add_line(&list, "Accept", request->accept);
	if (request->authorization != NULL && hop->answer->own_origin) {
		add_line(&list, "Authorization", request->authorization);
	}
	add_line(&list, "Expect", ""); /* no 100-continue before a form */
	return list;
}

static void free_headers(struct curl_slist **list)
{
	for (struct curl_slist *line = *list; line != NULL; line = line->next) {
		explicit_bzero(line->data, strlen(line->data));
	}
	curl_slist_free_all(*list);
}

static void set_tls(CURL *easy, const char *ca)
{
	if (ca == NULL || ca[0] == '\0') {
		/* The system's bundle alone: curl parses it once a client if there is no folder. */
		curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
		return;
	}
	/* The system's roots come from their folder, by hash, as they are needed. */
	curl_easy_setopt(easy, CURLOPT_CAINFO, ca);
	curl_easy_setopt(easy, CURLOPT_CAPATH, "/etc/ssl/certs");
}

static void set_up(struct hop *hop, struct curl_slist *headers)
{
	const struct cairn_http_request *request = hop->request;
	struct cairn_http_client *client = hop->client;
	CURL *easy = client->easy;
	char range[32];
	curl_easy_reset(easy);
	client->curl_error[0] = '\0';
	curl_easy_setopt(easy, CURLOPT_URL, hop->url->text);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L); /* wait for no resolver when cancelled */
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, client->curl_error);
	curl_easy_setopt(easy, CURLOPT_USERAGENT, client->user_agent);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
	curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)client->opts.connect_ms);
	curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, BUFFER_BYTES);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, hop);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, hop);
	set_tls(easy, request->ca);
	if (request->method == CAIRN_HTTP_HEAD) curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
	if (request->method == CAIRN_HTTP_POST) {
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->form);
	}
	if (request->from > 0) {
		snprintf(range, sizeof(range), "%" PRIu64 "-", request->from);
		curl_easy_setopt(easy, CURLOPT_RANGE, range);
	}
}

/* Run the transfer to its end, or until one of us ends it. */
static CURLcode drive(struct hop *hop)
{
	CURLM *multi = hop->client->multi;
	CURLcode rc = CURLE_FAILED_INIT;
	int running = 0, left = 0;
	bool done = curl_multi_add_handle(multi, hop->client->easy) != CURLM_OK;
	while (!done) {
		CURLMcode mc = curl_multi_perform(multi, &running);
		for (const CURLMsg *msg; (msg = curl_multi_info_read(multi, &left)) != NULL;) {
			if (msg->msg != CURLMSG_DONE) continue;
			rc = msg->data.result;
			done = true;
		}
		if (done || mc != CURLM_OK || !goes_on(hop) || !in_time(hop)) break;
		(void)curl_multi_poll(multi, NULL, 0, POLL_MS, NULL);
	}
	fill_answer(hop);
	curl_multi_remove_handle(multi, hop->client->easy);
	return rc;
}

static bool speaks_no_tls(const char *curl_error)
{
	static const char *const signs[] = {"wrong version number", "packet length too long",
					    "http request", "unsupported protocol", "alert"};
	for (size_t i = 0; i < CAIRN_LEN(signs); i++) {
		if (strstr(curl_error, signs[i]) != NULL) return true;
	}
	return false;
}

/* What curl says went wrong, in our codes. */
static enum cairn_code code_of(const struct hop *hop, CURLcode rc)
{
	switch (rc) {
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_ISSUER_ERROR:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CIPHER:
	case CURLE_SSL_INVALIDCERTSTATUS:
		return CAIRN_FAILED_PRECONDITION;
	case CURLE_SSL_CONNECT_ERROR: /* or it broke off in the handshake */
		return speaks_no_tls(hop->client->curl_error) ? CAIRN_FAILED_PRECONDITION
							      : CAIRN_UNAVAILABLE;
	case CURLE_UNSUPPORTED_PROTOCOL: /* HTTP/0.9: that is no HTTP */
	case CURLE_WEIRD_SERVER_REPLY:
	case CURLE_URL_MALFORMAT:
	case CURLE_BAD_CONTENT_ENCODING:
		return CAIRN_INVALID_ARGUMENT;
	case CURLE_OUT_OF_MEMORY: /* also: a header line beyond curl's own bound */
		return hop->headers_done ? CAIRN_UNAVAILABLE : CAIRN_INVALID_ARGUMENT;
	default:
		return CAIRN_UNAVAILABLE;
	}
}

static enum cairn_code judge(struct hop *hop, CURLcode rc)
{
	struct cairn_http_client *client = hop->client;
	char shown[CAIRN_URL_SHOW];
	if (hop->code != CAIRN_OK) return hop->code;
	if (rc == CURLE_OK || hop->enough) return CAIRN_OK;
	/* An error broken off is an error told. */
	if (hop->headers_done && hop->answer->status >= 300) return CAIRN_OK;
	const char *why =
		client->curl_error[0] != '\0' ? client->curl_error : curl_easy_strerror(rc);
	char text[CURL_ERROR_SIZE];
	snprintf(text, sizeof(text), "%s", why);
	for (char *c = text; *c != '\0'; c++) *c = *c >= ' ' && *c <= '~' ? *c : '?';
	return cairn_err_set(hop->err, code_of(hop, rc), "%s: %s",
			     cairn_url_show(hop->url->text, shown), text);
}

/* ret_location: where a redirect goes; owned; NULL: nowhere. */
static enum cairn_code run_hop(struct hop *hop, char **ret_location)
{
	cairn_auto(free_headers) struct curl_slist *headers = make_headers(hop);
	*hop->answer = (struct cairn_http_answer){.own_origin = hop->answer->own_origin};
	hop->begin_ns = hop->last_ns = now_ns();
	set_up(hop, headers);
	enum cairn_code code = judge(hop, drive(hop));
	*ret_location = cairn_steal(&hop->location);
	/* It holds pointers to headers and hop, which are about to go. */
	curl_easy_reset(hop->client->easy);
	return code;
}

/* ---- redirects -------------------------------------------------------------------------------
 */

static bool is_redirect(int status)
{
	return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

enum cairn_code cairn_http_redirect(const struct cairn_url *url, const char *location,
				    struct cairn_url *ret, struct cairn_err *err)
{
	struct cairn_url next;
	enum cairn_code code = cairn_url_parse(location, url->text, &next, err);
	if (code != CAIRN_OK) return code;
	if (url->https && !next.https) {
		cairn_url_fini(&next);
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "from https to http is refused");
	}
	*ret = next;
	return CAIRN_OK;
}

static enum cairn_code next_url(const struct cairn_http_request *request, unsigned hops,
				const char *location, struct cairn_url *url, struct cairn_err *err)
{
	struct cairn_url next;
	char shown[CAIRN_URL_SHOW];
	enum cairn_code code = CAIRN_OK;
	if (location == NULL) {
		code = cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "to nowhere");
	} else if (request->method == CAIRN_HTTP_POST) {
		code = cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "of a POST is refused");
	} else if (hops >= CAIRN_HTTP_REDIRECTS_MAX) {
		code = cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "too many, more than %d",
				     CAIRN_HTTP_REDIRECTS_MAX);
	} else {
		code = cairn_http_redirect(url, location, &next, err);
	}
	if (code != CAIRN_OK) {
		return cairn_err_wrap(err, "%s: redirect", cairn_url_show(url->text, shown));
	}
	cairn_url_fini(url);
	*url = next;
	return CAIRN_OK;
}

enum cairn_code cairn_http_do(struct cairn_http_client *client,
			      const struct cairn_http_request *request,
			      const struct cairn_go_on *go_on, struct cairn_http_answer *ret,
			      struct cairn_err *err)
{
	cairn_auto(cairn_url_fini) struct cairn_url first = {0}, url = {0};
	*ret = (struct cairn_http_answer){0};
	enum cairn_code code = cairn_url_parse(request->url, NULL, &first, err);
	if (code == CAIRN_OK) code = cairn_url_parse(request->url, NULL, &url, err);
	int64_t deadline_ns =
		request->total_ms > 0 ? now_ns() + request->total_ms * CAIRN_NS_PER_MS : INT64_MAX;
	for (unsigned hops = 0; code == CAIRN_OK; hops++) {
		struct hop hop = {.client = client,
				  .request = request,
				  .go_on = go_on,
				  .url = &url,
				  .answer = ret,
				  .err = err,
				  .deadline_ns = deadline_ns};
		char *location = NULL;
		ret->own_origin = strcmp(first.origin, url.origin) == 0;
		code = run_hop(&hop, &location);
		if (code != CAIRN_OK || !is_redirect(ret->status)) {
			free(location);
			break;
		}
		code = next_url(request, hops, location, &url, err);
		free(location);
	}
	return code;
}
