package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"net/http"
	"os"
	"path/filepath"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What layers are made of: the regular files below /usr, in the order of a walk, so that the mix of
// programs, libraries, text and already compressed files is that of real images.
type fileSource struct{ paths chan string }

func newFileSource(done <-chan struct{}) *fileSource {
	s := &fileSource{paths: make(chan string)}
	go func() {
		defer close(s.paths)
		for _, top := range []string{"/usr/bin", "/usr/lib", "/usr/share", "/usr/include"} {
			filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
				if err != nil || !e.Type().IsRegular() {
					return nil
				}
				select {
				case s.paths <- path:
					return nil
				case <-done:
					return filepath.SkipDir
				}
			})
		}
	}()
	return s
}

const biggestFile = 32 << 20

// A gzip layer of about so many compressed bytes (fewer if /usr has no more).
func makeLayer(src *fileSource, size int) (blob []byte, diffID digest.Digest, err error) {
	var out bytes.Buffer
	raw := digest.SHA256.Digester()
	zip := gzip.NewWriter(&out)
	tw := tar.NewWriter(io.MultiWriter(zip, raw.Hash()))
	for path := range src.paths {
		data, err := os.ReadFile(path)
		if err != nil || len(data) > biggestFile || len(data) > 2*size {
			continue
		}
		err = tw.WriteHeader(&tar.Header{Name: "image" + path, Mode: 0644, Size: int64(len(data)),
			ModTime: time.Unix(1600000000, 0), Typeflag: tar.TypeReg})
		if err != nil {
			return nil, "", err
		}
		if _, err := tw.Write(data); err != nil {
			return nil, "", err
		}
		if out.Len() >= size {
			break
		}
	}
	if err := tw.Close(); err != nil {
		return nil, "", err
	}
	if err := zip.Close(); err != nil {
		return nil, "", err
	}
	return out.Bytes(), raw.Digest(), nil
}

// A layer that nobody will unpack.
func randomLayer(size int) (blob []byte, diffID digest.Digest, err error) {
	blob = make([]byte, size)
	rand.New(rand.NewSource(1)).Read(blob)
	return blob, digest.FromBytes(blob), nil
}

// Make an image of layers of these compressed sizes and push it. Returns the bytes of all blobs.
func pushImage(base, repo, tag string, sizes []int) (total int64, err error) {
	done := make(chan struct{})
	defer close(done)
	src := newFileSource(done)
	manifest, err := pushLayers(base, repo, tag, sizes, func(size int) ([]byte, digest.Digest, error) {
		return makeLayer(src, size)
	})
	for _, l := range manifest.Layers {
		total += l.Size
	}
	return total, err
}

func pushLayers(base, repo, tag string, sizes []int,
	makeOne func(size int) ([]byte, digest.Digest, error)) (manifest ocispec.Manifest, err error) {
	config := ocispec.Image{Architecture: "amd64", OS: "linux", RootFS: ocispec.RootFS{Type: "layers"}}
	manifest.Versioned = specs.Versioned{SchemaVersion: 2}
	for _, size := range sizes {
		blob, diffID, err := makeOne(size)
		if err != nil {
			return manifest, err
		}
		d, err := pushBlob(base, repo, blob)
		if err != nil {
			return manifest, err
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
		manifest.Layers = append(manifest.Layers, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: int64(len(blob))})
	}
	text, err := json.Marshal(config)
	if err != nil {
		return manifest, err
	}
	d, err := pushBlob(base, repo, text)
	if err != nil {
		return manifest, err
	}
	manifest.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: d, Size: int64(len(text))}
	if text, err = json.Marshal(manifest); err != nil {
		return manifest, err
	}
	return manifest, put(base+"/v2/"+repo+"/manifests/"+tag, ocispec.MediaTypeImageManifest, text)
}

func pushBlob(base, repo string, blob []byte) (digest.Digest, error) {
	d := digest.FromBytes(blob)
	resp, err := http.Post(base+"/v2/"+repo+"/blobs/uploads/", "", nil)
	if err != nil {
		return "", err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return "", fmt.Errorf("start of an upload: %s", resp.Status)
	}
	where, err := resp.Location()
	if err != nil {
		return "", err
	}
	q := where.Query()
	q.Set("digest", d.String())
	where.RawQuery = q.Encode()
	return d, put(where.String(), "application/octet-stream", blob)
}

func put(url, mediaType string, body []byte) error {
	req, err := http.NewRequest(http.MethodPut, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return fmt.Errorf("put %s: %s %s", url, resp.Status, text)
	}
	return nil
}
