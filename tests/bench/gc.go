package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// Garbage collection over many blobs, and how long a client waits for Info meanwhile: a pass that
// keeps everything, and one that evicts everything but one.
func (b *bench) runGC() error {
	name := fmt.Sprintf("GC pass over %d blobs", b.manyBlobs)
	if !b.wanted(name) || b.cairnd == "" || b.cclient == "" {
		return nil
	}
	keeps := b.newRow(name+", all kept", "s", "")
	keeps.limit(2)
	evicts := b.newRow(name+", all evicted", "s", "")
	idle := b.newRow("Info, longest of 10 s, C client, no GC", "ms", "")
	slowest := b.newRow("Info, longest of 2 s, C client, GC passes that keep all", "ms", "")
	slowest.limit(5)
	evicting := b.newRow("Info, longest of 10 s, C client, while GC evicts all", "ms", "")
	evicting.limit(5)
	for run := 0; run < b.runs; run++ {
		if err := b.gcRun(keeps, evicts, idle, slowest, evicting); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, r := range []*row{keeps, evicts, idle, slowest, evicting} {
		b.show(r)
	}
	return nil
}

func (b *bench) gcRun(keeps, evicts, idle, slowest, evicting *row) error {
	m, err := b.fillStore(cairn)
	if err != nil {
		return err
	}
	defer func() {
		m.s.stop(syscall.SIGKILL)
		os.RemoveAll(m.s.root)
	}()
	if err = m.s.launch(b); err != nil {
		return err
	}
	longest, err := b.longestInfo(m, 10, func() error { return nil })
	if err != nil {
		return err
	}
	idle.add(cairn, longest, 0, 0)
	var took float64
	longest, err = b.longestInfo(m, 2, func() error {
		for begin := time.Now(); time.Since(begin) < 1800*time.Millisecond; {
			if took, err = b.collect(m.s, 0); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	keeps.add(cairn, took, 0, 0)
	slowest.add(cairn, longest, 0, 0)
	if err = b.deleteAll(m); err != nil {
		return err
	}
	longest, err = b.longestInfo(m, 10, func() error {
		took, err = b.collect(m.s, b.manyBlobs-1)
		return err
	})
	if err != nil {
		return err
	}
	evicts.add(cairn, took, 0, 0)
	evicting.add(cairn, longest, 0, 0)
	return nil
}

// The longest Info in milliseconds, asked one after the other while work runs.
func (b *bench) longestInfo(m *manyStore, seconds float64, work func() error) (float64, error) {
	cmd := exec.Command(b.cclient, m.s.socket, string(m.some), fmt.Sprint(seconds))
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	err := work()
	if e := cmd.Wait(); err == nil {
		err = e
	}
	if err != nil {
		return 0, err
	}
	var res struct {
		MaxUs float64 `json:"max_us"`
	}
	if err = json.Unmarshal(out.Bytes(), &res); err != nil {
		return 0, err
	}
	return res.MaxUs / 1000, nil
}

// Seconds that a pass took, by its own word. It is to evict so many blobs.
func (b *bench) collect(s *server, want int) (float64, error) {
	cmd := exec.Command(filepath.Join(filepath.Dir(b.cairnd), "cairnctl"), "--socket", s.socket, "--json", "gc")
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("cairnctl gc: %w", err)
	}
	var last struct {
		Type    string
		Evicted struct{ Blobs int }
		Ms      float64 `json:"duration_ms"`
	}
	for sc := bufio.NewScanner(bytes.NewReader(out)); sc.Scan(); {
		if err = json.Unmarshal(sc.Bytes(), &last); err != nil {
			return 0, err
		}
	}
	if last.Type != "summary" || last.Evicted.Blobs != want {
		return 0, fmt.Errorf("cairnctl gc evicted %d blobs, %d were to go", last.Evicted.Blobs, want)
	}
	return last.Ms / 1000, nil
}

// Make every blob but one cached: containerd needs them no more.
func (b *bench) deleteAll(m *manyStore) error {
	c, err := newClient(m.s.socket, "")
	if err != nil {
		return err
	}
	defer c.close()
	names, err := os.ReadDir(filepath.Join(m.s.root, "blobs", "sha256"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	work := make(chan digest.Digest)
	failed := make(chan error, 8)
	var wg sync.WaitGroup
	for i := 0; i < 8; i++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for d := range work {
				if err := c.store.Delete(ctx, d); err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			}
		}()
	}
	for _, entry := range names {
		d := digest.NewDigestFromEncoded(digest.SHA256, entry.Name())
		if d != m.some {
			work <- d
		}
	}
	close(work)
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}
