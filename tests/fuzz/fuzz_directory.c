/* Messages of the static directory: a peer's question to us, whose answer is one that we would take
 * from another; and a peer's answer. */
#include <string.h>

#include "p2p/frame.h"
#include "p2p/static_state.h"
#include "tests/fuzz/fuzz.h"

static void check_answer(const Cairn__Peer__V1__DirectoryResponse *msg, bool ours)
{
	struct wire_answer answer;
	bool taken = wire_take(msg, "10.0.0.1:1", &answer);
	FUZZ_CHECK(taken || !ours);
	if (!taken) return;
	FUZZ_CHECK(answer.code <= CAIRN_UNAUTHENTICATED);
	FUZZ_CHECK(strnlen(answer.message, sizeof(answer.message)) < sizeof(answer.message));
	FUZZ_CHECK(answer.answer.n <= CAIRN_FIND_MAX);
	for (size_t i = 0; i < answer.answer.n; i++) {
		const char *node = answer.answer.found[i].node.address;
		FUZZ_CHECK(strnlen(node, CAIRN_ADDRESS_MAX) < CAIRN_ADDRESS_MAX);
		FUZZ_CHECK(node[0] != '\0' && strcmp(node, "10.0.0.1:1") != 0);
	}
	const struct cairn_grant *grant = &answer.answer.grant;
	FUZZ_CHECK(grant->state <= CAIRN_GRANT_RUNNING);
	FUZZ_CHECK((grant->state == CAIRN_GRANT_FREE) == (grant->version == 0));
}

/* Asked by two peers in turn, so that the one finds the other. */
static void ask(const Cairn__Peer__V1__DirectoryRequest *req)
{
	const struct cairn_hello own = {.address = "10.0.0.9:1"};
	const struct cairn_static_opts opts = {.own = &own};
	struct cairn_directory *dir;
	struct cairn_static_reply reply;
	struct cairn_err err;
	if (cairn_static_new(&opts, &dir, &err) != CAIRN_OK) abort();
	cairn_static_answer(dir, "10.0.0.2:1", req, &reply);
	cairn_static_answer(dir, "10.0.0.1:1", req, &reply);
	size_t n = cairn__peer__v1__directory_response__get_packed_size(&reply.msg);
	FUZZ_CHECK(n <= CAIRN_DIRECTORY_MAX);
	check_answer(&reply.msg, true);
	dir->ops->close(dir, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size > CAIRN_DIRECTORY_MAX) return 0;
	Cairn__Peer__V1__DirectoryRequest *req =
		cairn__peer__v1__directory_request__unpack(NULL, size, data);
	if (req != NULL) {
		ask(req);
		cairn__peer__v1__directory_request__free_unpacked(req, NULL);
	}
	Cairn__Peer__V1__DirectoryResponse *response =
		cairn__peer__v1__directory_response__unpack(NULL, size, data);
	if (response != NULL) {
		check_answer(response, false);
		cairn__peer__v1__directory_response__free_unpacked(response, NULL);
	}
	return 0;
}
