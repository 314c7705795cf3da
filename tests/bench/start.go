package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// Start with many blobs: from exec until the first Info is answered. The blobs are put where both
// stores keep them (blobs/sha256/<hex>); cairnd then finds files without an index and rebuilds it,
// which is timed as well.
func (b *bench) runStart(kinds []subject) error {
	name := fmt.Sprintf("Start with %d blobs", b.manyBlobs)
	if !b.wanted(name) {
		return nil
	}
	clean := b.newRow(name+", until Info is answered", "s", "")
	clean.limit(2)
	killed := b.newRow(name+", after kill -9", "s", "")
	killed.limit(2)
	rebuild := b.newRow(name+", index lost: rebuilt", "s", "")
	info := b.newRow(fmt.Sprintf("Info, 1 client, with %d blobs", b.manyBlobs), "1/s", "µs/call")
	rss := b.newRow(fmt.Sprintf("RSS idle with %d blobs", b.manyBlobs), "MiB", "")

	cclient := b.newRow(fmt.Sprintf("Info with %d blobs, C client: p50", b.manyBlobs), "µs", "")
	cclient.limit(100)
	slowest := b.newRow(fmt.Sprintf("Info with %d blobs, C client: p99", b.manyBlobs), "µs", "")
	rows := &startRows{clean, killed, rebuild, info, rss, cclient, slowest}

	var stores []*manyStore
	defer func() {
		for _, m := range stores {
			m.s.stop(syscall.SIGKILL)
			os.RemoveAll(m.s.root)
		}
	}()
	for _, kind := range kinds {
		if kind == builtin {
			continue
		}
		m, err := b.fillStore(kind)
		if err != nil {
			return err
		}
		stores = append(stores, m)
		first := clean
		if kind == cairn {
			first = rebuild
		}
		if err := b.startOnce(m, first); err != nil {
			return fmt.Errorf("%s, %s: %w", name, kind, err)
		}
	}
	for run := 0; run < b.runs; run++ {
		for _, m := range stores {
			if err := b.startRun(m, rows); err != nil {
				return fmt.Errorf("%s, %s: %w", name, m.s.kind, err)
			}
		}
	}
	for _, r := range []*row{clean, killed, rebuild, info, cclient, slowest, rss} {
		b.show(r)
	}
	return nil
}

type startRows struct{ clean, killed, rebuild, info, rss, cclient, slowest *row }

// A server with many blobs, and the digest of one of them.
type manyStore struct {
	s    *server
	some digest.Digest
}

func (b *bench) fillStore(kind subject) (*manyStore, error) {
	s := &server{kind: kind, root: b.dir("many-" + string(kind))}
	b.sockets++
	s.socket = filepath.Join(b.work, fmt.Sprintf("%d.sock", b.sockets))
	some, err := manyBlobs(filepath.Join(s.root, "blobs", "sha256"), b.manyBlobs)
	syscall.Sync()
	return &manyStore{s, some}, err
}

func (b *bench) startOnce(m *manyStore, r *row) error {
	begin := time.Now()
	if err := m.s.launch(b); err != nil {
		return err
	}
	if err := b.alive(m.s, m.some); err != nil {
		return err
	}
	r.add(m.s.kind, time.Since(begin).Seconds(), 0, 0)
	return nil
}

// An orderly stop and start, queries, then a kill and start.
func (b *bench) startRun(m *manyStore, rows *startRows) error {
	s := m.s
	if err := s.stop(syscall.SIGTERM); err != nil && s.kind == cairn {
		return err
	}
	if err := b.startOnce(m, rows.clean); err != nil {
		return err
	}
	rows.rss.add(s.kind, s.memory().RSS, 0, 0)
	smp, err := b.measureClient(s, "-op", "info", "-blob", string(m.some), "-seconds", fmt.Sprint(b.seconds))
	if err != nil {
		return err
	}
	rows.info.add(s.kind, perSecond(smp), smp.ServerCPU/perCall(smp), smp.ClientCPU/perCall(smp))
	rows.info.latency(s.kind, smp.P50us, smp.P99us)
	if err := b.askInC(m, rows); err != nil {
		return err
	}
	if err := s.stop(syscall.SIGKILL); err != nil {
		return err
	}
	return b.startOnce(m, rows.killed)
}

// The latency without Go's client.
func (b *bench) askInC(m *manyStore, rows *startRows) error {
	if b.cclient == "" {
		return nil
	}
	out, err := exec.Command(b.cclient, m.s.socket, string(m.some), fmt.Sprint(b.seconds)).Output()
	if err != nil {
		return fmt.Errorf("%s: %w", b.cclient, err)
	}
	var res result
	if err := json.Unmarshal(out, &res); err != nil {
		return err
	}
	rows.cclient.add(m.s.kind, res.P50us, 0, 0)
	rows.slowest.add(m.s.kind, res.P99us, 0, 0)
	return nil
}

// One Info, in this process: starting a client costs more than many a daemon's start.
func (b *bench) alive(s *server, d digest.Digest) error {
	c, err := newClient(s.socket, "")
	if err != nil {
		return err
	}
	defer c.close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err = c.store.Info(ctx, d)
	return err
}

func manyBlobs(dir string, n int) (digest.Digest, error) {
	if err := os.MkdirAll(dir, 0700); err != nil {
		return "", err
	}
	var some digest.Digest
	for i := 0; i < n; i++ {
		text := make([]byte, 64)
		binary.BigEndian.PutUint64(text, uint64(i))
		sum := sha256.Sum256(text)
		name := hex.EncodeToString(sum[:])
		if err := os.WriteFile(filepath.Join(dir, name), text, 0600); err != nil {
			return "", err
		}
		some = digest.NewDigestFromEncoded(digest.SHA256, name)
	}
	return some, nil
}
