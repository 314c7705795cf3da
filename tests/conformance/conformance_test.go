// containerd's own content suite, run over a socket.
//
// The suite is containerd's (content/testsuite): what it passes on its own store, it must pass here. It
// runs on the bare proxy store, as containerd sees a content plugin, and again behind containerd's
// metadata store (bolt), shared and isolated, as every image pull does.
//
// The server is cairnd (-cairnd PATH), or without it containerd's reference server, which shows that
// the harness itself asks nothing unfair.
package conformance

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/content"
	"github.com/containerd/containerd/content/proxy"
	"github.com/containerd/containerd/content/testsuite"
	"github.com/containerd/containerd/errdefs"
	"github.com/containerd/containerd/metadata"
	"github.com/containerd/containerd/namespaces"
	bolt "go.etcd.io/bbolt"
)

// Each test has a daemon of its own: nothing that one test leaves behind can help or harm the next.
func TestProxy(t *testing.T) {
	testsuite.ContentSuite(t, "proxy", rawStore(startServer))
}

func TestMetadata(t *testing.T) {
	store := boltStore(startServer)
	testsuite.ContentSuite(t, "metadata", store)
	testsuite.ContentCrossNSSharedSuite(t, "metadata", store)
	testsuite.ContentCrossNSIsolatedSuite(t, "metadata", boltStore(startServer, metadata.WithPolicyIsolated))
}

// As a node lives: one daemon serves everything, one test after the other.
func TestOneDaemon(t *testing.T) {
	srv, err := startServer(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := srv.stop(); err != nil {
			t.Error(err)
		}
	}()
	use := func(string) (*server, error) { return srv.borrow(), nil }
	t.Run("Proxy", func(t *testing.T) {
		testsuite.ContentSuite(t, "one-proxy", rawStore(use))
	})
	t.Run("Metadata", func(t *testing.T) {
		testsuite.ContentSuite(t, "one-metadata", boltStore(use))
		testsuite.ContentCrossNSSharedSuite(t, "one-metadata", boltStore(use))
		testsuite.ContentCrossNSIsolatedSuite(t, "one-metadata", boltStore(use, metadata.WithPolicyIsolated))
	})
}

type serverFn func(dir string) (*server, error)

// The proxy store with nothing in front. The clean-up is part of the test: it deletes from inside the
// walk and aborts every ingest, as containerd's garbage collection does, and nothing may be left.
func rawStore(start serverFn) testsuite.StoreInitFn {
	return func(ctx context.Context, root string) (context.Context, content.Store, func() error, error) {
		srv, err := start(root)
		if err != nil {
			return nil, nil, nil, err
		}
		cs := proxy.NewContentStore(contentapi.NewContentClient(srv.conn))
		return ctx, cs, func() error {
			err := empty(ctx, cs)
			if e := srv.stop(); err == nil {
				err = e
			}
			return err
		}, nil
	}
}

// The proxy store as containerd uses it. The clean-up collects garbage with containerd's collector and
// then expects the backend to list all that bolt still records.
func boltStore(start serverFn, opts ...metadata.DBOpt) testsuite.StoreInitFn {
	return func(ctx context.Context, root string) (context.Context, content.Store, func() error, error) {
		srv, err := start(root)
		if err != nil {
			return nil, nil, nil, err
		}
		db, err := bolt.Open(filepath.Join(root, "metadata.db"), 0660, nil)
		if err != nil {
			srv.stop()
			return nil, nil, nil, err
		}
		backend := proxy.NewContentStore(contentapi.NewContentClient(srv.conn))
		mdb := metadata.NewDB(db, backend, nil, opts...)

		var spaces []string
		var count uint64
		name := testsuite.Name(ctx)
		ctx = testsuite.SetContextWrapper(ctx, func(ctx context.Context) (context.Context, func(context.Context) error, error) {
			ns := fmt.Sprintf("%s-n%d", name, atomic.AddUint64(&count, 1))
			spaces = append(spaces, ns)
			return namespaces.WithNamespace(ctx, ns), func(context.Context) error { return nil }, nil
		})
		return ctx, mdb.ContentStore(), func() error {
			err := collect(mdb, backend, spaces)
			if e := db.Close(); err == nil {
				err = e
			}
			if e := empty(context.Background(), backend); err == nil {
				err = e
			}
			if e := srv.stop(); err == nil {
				err = e
			}
			return err
		}, nil
	}
}

// Run containerd's collector, twice as the first pass may still see fresh ingests; what bolt then records
// must be listed.
func collect(mdb *metadata.DB, backend content.Store, spaces []string) error {
	ctx := context.Background()
	recorded := map[string]bool{}
	for i := 0; i < 2; i++ {
		if _, err := mdb.GarbageCollect(ctx); err != nil {
			return fmt.Errorf("garbage collection: %w", err)
		}
	}
	for _, ns := range spaces {
		err := mdb.ContentStore().Walk(namespaces.WithNamespace(ctx, ns), func(info content.Info) error {
			recorded[info.Digest.String()] = true
			return nil
		})
		if err != nil {
			return err
		}
	}
	listed := map[string]bool{}
	err := backend.Walk(ctx, func(info content.Info) error {
		listed[info.Digest.String()] = true
		return nil
	})
	if err != nil {
		return err
	}
	for d := range recorded {
		if !listed[d] {
			return fmt.Errorf("containerd records %s, the backend does not list it", d)
		}
	}
	return nil
}

// Delete everything from inside the walk, abort every ingest, and see that both lists are empty.
func empty(ctx context.Context, cs content.Store) error {
	err := cs.Walk(ctx, func(info content.Info) error {
		if err := cs.Delete(ctx, info.Digest); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("delete %s inside the walk: %w", info.Digest, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	statuses, err := cs.ListStatuses(ctx)
	if err != nil {
		return err
	}
	for _, st := range statuses {
		// A writer that was closed a moment ago may still hold its ref in the reference server.
		deadline := time.Now().Add(5 * time.Second)
		for err = cs.Abort(ctx, st.Ref); err != nil && time.Now().Before(deadline); err = cs.Abort(ctx, st.Ref) {
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			return fmt.Errorf("abort %s: %w", st.Ref, err)
		}
	}
	left := 0
	if err := cs.Walk(ctx, func(content.Info) error { left++; return nil }); err != nil {
		return err
	}
	if statuses, err = cs.ListStatuses(ctx); err != nil {
		return err
	}
	if left+len(statuses) > 0 {
		return fmt.Errorf("%d blobs and %d ingests are left after all were deleted and aborted", left, len(statuses))
	}
	return nil
}
