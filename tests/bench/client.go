package main

import (
	"context"
	"encoding"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"sort"
	"sync"
	"syscall"
	"time"

	"crypto/sha256"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/content"
	"github.com/containerd/containerd/content/local"
	"github.com/containerd/containerd/content/proxy"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// What one client process did. Latencies are those the Go client sees.
type result struct {
	Ops       int64   `json:"ops"`
	Bytes     int64   `json:"bytes"`
	Seconds   float64 `json:"seconds"`
	ClientCPU float64 `json:"client_cpu"`
	P50us     float64 `json:"p50_us"`
	P99us     float64 `json:"p99_us"`
}

// The client of a measure: whom it calls, and through what.
type client struct {
	store content.Store
	raw   contentapi.ContentClient // nil: the built-in store, in this process
	conn  *grpc.ClientConn
}

// What services/server/server.go of containerd does for [proxy_plugins]: one connection for all.
func dial(socket string) (*grpc.ClientConn, error) {
	b := backoff.DefaultConfig
	b.BaseDelay = 5 * time.Millisecond // unlike containerd: the start of a daemon is timed with this
	b.MaxDelay = 20 * time.Millisecond
	return grpc.Dial(socket,
		grpc.WithInsecure(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: b, MinConnectTimeout: 20 * time.Second}),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", addr)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
}

func newClient(socket, localRoot string) (*client, error) {
	if localRoot != "" {
		store, err := local.NewStore(localRoot)
		return &client{store: store}, err
	}
	conn, err := dial(socket)
	if err != nil {
		return nil, err
	}
	raw := contentapi.NewContentClient(conn)
	return &client{store: proxy.NewContentStore(raw), raw: raw, conn: conn}, nil
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
	}
}

// Blobs differ in their last chunk only, so that the hash of the rest is computed once a process.
type blobMaker struct {
	size    int64
	pattern []byte
	prefix  []byte // saved state of the hash over all but the last chunk
}

const chunk = 1 << 20

func newBlobMaker(size int64) (*blobMaker, error) {
	m := &blobMaker{size: size, pattern: make([]byte, chunk)}
	rand.New(rand.NewSource(1)).Read(m.pattern)
	h := sha256.New()
	for n := int64(0); n+chunk < size; n += chunk {
		h.Write(m.pattern)
	}
	var err error
	m.prefix, err = h.(encoding.BinaryMarshaler).MarshalBinary()
	return m, err
}

// The last chunk of the blob that seed names, and the blob's digest.
func (m *blobMaker) blob(seed uint64) ([]byte, digest.Digest, error) {
	last := m.size % chunk
	if last == 0 {
		last = chunk
	}
	if m.size < last {
		last = m.size
	}
	end := make([]byte, last)
	copy(end, m.pattern)
	binary.BigEndian.PutUint64(end, seed)
	h := sha256.New()
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(m.prefix); err != nil {
		return nil, "", err
	}
	h.Write(end)
	return end, digest.NewDigest(digest.SHA256, h), nil
}

// Write a blob as an image pull does: known total, 1 MiB at a time, digest at the commit.
func (m *blobMaker) write(ctx context.Context, cs content.Store, end []byte, d digest.Digest) error {
	w, err := cs.Writer(ctx, content.WithRef("default/1/layer-"+d.String()),
		content.WithDescriptor(ocispec.Descriptor{Size: m.size}))
	if err != nil {
		return err
	}
	defer w.Close()
	st, err := w.Status()
	if err != nil {
		return err
	}
	if st.Offset != 0 {
		return fmt.Errorf("ref of %s stands at %d, want 0: not a fresh store", d, st.Offset)
	}
	for n := int64(0); n < m.size; {
		piece := m.pattern
		if m.size-n <= chunk {
			piece = end
		}
		k, err := w.Write(piece)
		if err != nil {
			return err
		}
		n += int64(k)
	}
	return w.Commit(ctx, m.size, d)
}

func clientMain(args []string) error {
	fs := flag.NewFlagSet("client", flag.ExitOnError)
	socket := fs.String("socket", "", "content service")
	root := fs.String("local", "", "built-in store at this directory, instead of a socket")
	op := fs.String("op", "", "fill, info, readat, stream, write, mixed or alive")
	conc := fs.Int("conc", 1, "clients at once")
	size := fs.Int64("size", 1<<20, "bytes of a read or blob")
	blob := fs.String("blob", "", "digest to ask for or read")
	seconds := fs.Float64("seconds", 2, "how long to repeat")
	seed := fs.Uint64("seed", 0, "makes written blobs unique")
	fs.Parse(args)

	c, err := newClient(*socket, *root)
	if err != nil {
		return err
	}
	defer c.close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dgst := digest.Digest(*blob)
	duration := time.Duration(*seconds * float64(time.Second))

	var res *result
	switch *op {
	case "fill":
		maker, err := newBlobMaker(*size)
		if err != nil {
			return err
		}
		end, d, err := maker.blob(*seed)
		if err != nil {
			return err
		}
		if err := maker.write(ctx, c.store, end, d); err != nil {
			return err
		}
		fmt.Println(d)
		return nil
	case "alive":
		_, err := c.store.Info(ctx, dgst)
		return err
	case "info":
		res, err = timed(*conc, duration, func(int) (func() (int64, error), error) {
			return func() (int64, error) { _, err := c.store.Info(ctx, dgst); return 0, err }, nil
		})
	case "readat":
		res, err = c.readAt(ctx, dgst, *size, *conc, duration)
	case "stream":
		res, err = c.stream(ctx, dgst, *conc)
	case "write":
		res, err = c.write(ctx, *size, *conc, *seed)
	case "mixed":
		res, err = c.mixed(ctx, dgst, *size, *conc, *seed)
	default:
		return fmt.Errorf("unknown operation %q", *op)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(res)
}

func cpuSelf() float64 {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		panic(err)
	}
	return float64(ru.Utime.Nano()+ru.Stime.Nano()) / 1e9
}

// Run conc loops at once until the duration is over (0: each exactly once).
func timed(conc int, duration time.Duration, start func(i int) (func() (int64, error), error)) (*result, error) {
	steps := make([]func() (int64, error), conc)
	for i := range steps {
		var err error
		if steps[i], err = start(i); err != nil {
			return nil, err
		}
	}
	var mu sync.Mutex
	var res result
	var all []time.Duration
	var failed error
	var wg sync.WaitGroup
	cpu, begin := cpuSelf(), time.Now()
	for _, step := range steps {
		step := step
		wg.Add(1)
		go func() {
			defer wg.Done()
			var ops, bytes int64
			var lat []time.Duration
			var err error
			for err == nil && (ops == 0 || time.Since(begin) < duration) {
				t := time.Now()
				var n int64
				n, err = step()
				lat = append(lat, time.Since(t))
				bytes += n
				ops++
			}
			mu.Lock()
			defer mu.Unlock()
			res.Ops += ops
			res.Bytes += bytes
			all = append(all, lat...)
			if failed == nil {
				failed = err
			}
		}()
	}
	wg.Wait()
	res.Seconds = time.Since(begin).Seconds()
	res.ClientCPU = cpuSelf() - cpu
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	res.P50us = float64(all[len(all)/2].Nanoseconds()) / 1e3
	res.P99us = float64(all[len(all)*99/100].Nanoseconds()) / 1e3
	return &res, failed
}

// Sequential ReadAt, as unpack does it, each reader from its own start and around the end.
func (c *client) readAt(ctx context.Context, d digest.Digest, size int64, conc int, duration time.Duration) (*result, error) {
	return timed(conc, duration, func(i int) (func() (int64, error), error) {
		ra, err := c.store.ReaderAt(ctx, ocispec.Descriptor{Digest: d})
		if err != nil {
			return nil, err
		}
		if ra.Size() < size {
			return nil, fmt.Errorf("blob of %d bytes for reads of %d", ra.Size(), size)
		}
		buf := make([]byte, size)
		at := ra.Size() / int64(conc) * int64(i) / size * size
		return func() (int64, error) {
			if at+size > ra.Size() {
				at = 0
			}
			n, err := ra.ReadAt(buf, at)
			at += int64(n)
			if err == io.EOF && int64(n) == size {
				err = nil
			}
			return int64(n), err
		}, nil
	})
}

// The whole blob as one streamed Read. The built-in store has no stream: 1 MiB ReadAts.
func (c *client) stream(ctx context.Context, d digest.Digest, conc int) (*result, error) {
	return timed(conc, 0, func(int) (func() (int64, error), error) {
		return func() (int64, error) { return c.readAll(ctx, d) }, nil
	})
}

func (c *client) readAll(ctx context.Context, d digest.Digest) (int64, error) {
	if c.raw == nil {
		ra, err := c.store.ReaderAt(ctx, ocispec.Descriptor{Digest: d})
		if err != nil {
			return 0, err
		}
		defer ra.Close()
		return io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.NewSectionReader(ra, 0, ra.Size()), make([]byte, chunk))
	}
	s, err := c.raw.Read(ctx, &contentapi.ReadContentRequest{Digest: d})
	if err != nil {
		return 0, err
	}
	var total int64
	for {
		msg, err := s.Recv()
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		total += int64(len(msg.Data))
	}
}

func (c *client) writeStep(ctx context.Context, m *blobMaker, seed uint64) (func() (int64, error), error) {
	end, d, err := m.blob(seed)
	if err != nil {
		return nil, err
	}
	return func() (int64, error) { return m.size, m.write(ctx, c.store, end, d) }, nil
}

func (c *client) write(ctx context.Context, size int64, conc int, seed uint64) (*result, error) {
	m, err := newBlobMaker(size)
	if err != nil {
		return nil, err
	}
	return timed(conc, 0, func(i int) (func() (int64, error), error) {
		return c.writeStep(ctx, m, seed+uint64(i))
	})
}

// Half of the clients write a blob of this size, the other half stream one out: for memory use.
func (c *client) mixed(ctx context.Context, d digest.Digest, size int64, conc int, seed uint64) (*result, error) {
	m, err := newBlobMaker(size)
	if err != nil {
		return nil, err
	}
	return timed(conc, 0, func(i int) (func() (int64, error), error) {
		if i%2 == 0 {
			return c.writeStep(ctx, m, seed+uint64(i))
		}
		return func() (int64, error) { return c.readAll(ctx, d) }, nil
	})
}
