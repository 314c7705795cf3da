package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
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

	for _, kind := range kinds {
		if kind == builtin {
			continue
		}
		if err := b.startRuns(kind, clean, killed, rebuild, info, rss); err != nil {
			return fmt.Errorf("%s, %s: %w", name, kind, err)
		}
	}
	for _, r := range []*row{clean, killed, rebuild, info, rss} {
		b.show(r)
	}
	return nil
}

func (b *bench) startRuns(kind subject, clean, killed, rebuild, info, rss *row) error {
	root := b.dir("many-" + string(kind))
	defer os.RemoveAll(root)
	some, err := manyBlobs(filepath.Join(root, "blobs", "sha256"), b.manyBlobs)
	if err != nil {
		return err
	}
	syscall.Sync()
	s := &server{kind: kind, root: root}
	b.sockets++
	s.socket = filepath.Join(b.work, fmt.Sprintf("%d.sock", b.sockets))
	once := func(r *row) error {
		begin := time.Now()
		if err := s.launch(b); err != nil {
			return err
		}
		if err := b.alive(s, some); err != nil {
			return err
		}
		r.add(kind, time.Since(begin).Seconds(), 0, 0)
		return nil
	}
	first := clean
	if kind == cairn {
		first = rebuild
	}
	if err := once(first); err != nil {
		return err
	}
	for run := 0; run < b.runs; run++ {
		if err := s.stop(syscall.SIGTERM); err != nil && kind == cairn {
			return err
		}
		if err := once(clean); err != nil {
			return err
		}
		rss.add(kind, s.memory().RSS, 0, 0)
		smp, err := b.measureClient(s, "-op", "info", "-blob", string(some), "-seconds", fmt.Sprint(b.seconds))
		if err != nil {
			return err
		}
		info.add(kind, perSecond(smp), smp.ServerCPU/perCall(smp), smp.ClientCPU/perCall(smp))
		info.latency(kind, smp.P50us, smp.P99us)
		if err := s.stop(syscall.SIGKILL); err != nil {
			return err
		}
		if err := once(killed); err != nil {
			return err
		}
	}
	return s.stop(syscall.SIGTERM)
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
