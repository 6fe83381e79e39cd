package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// maxDocument bounds index.json, manifests and configurations, in bytes.
const maxDocument = 16 << 20

// maxIndexDepth bounds indexes in indexes; images have at most two.
const maxIndexDepth = 4

// tagAnnotation names an image in a layout's index.json.
const tagAnnotation = "org.opencontainers.image.ref.name"

// An ociImage is an image on disk whose layers are not read yet. Its digests are checked when they
// are: those of compressed layers (if it has a manifest) and of what is in them.
type ociImage struct {
	id         string // the digest of manifest or configuration: it stands for all that is in the image
	image      v1.Image
	config     *v1.ConfigFile
	compressed []v1.Descriptor // the manifest's layers; nil: only the content is checked
	cleanup    func()
}

func (o *ociImage) key() string { return o.id }

func (o *ociImage) close() {
	if o.cleanup != nil {
		o.cleanup()
	}
}

// platform is what images must be for.
func platform() v1.Platform { return v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }

// check refuses configurations that this machine can't run.
func (o *ociImage) check() error {
	have := v1.Platform{OS: o.config.OS, Architecture: o.config.Architecture}
	if want := platform(); have.OS != "" && have.OS != want.OS || have.Architecture != "" && have.Architecture != want.Architecture {
		return fmt.Errorf("is for %v, this machine is %v", have, want)
	}
	return nil
}

// openLayout finds the image of a layout on disk.
func (s *Store) openLayout(folder, tag string) (source, error) {
	index, err := readLayout(folder)
	if err != nil {
		return nil, err
	}
	manifests, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	chosen, err := chooseTag(manifests.Manifests, tag)
	if err != nil {
		return nil, err
	}
	return openIndex(folder, index, chosen, 0)
}

// readLayout reads index.json, which must be a file and no link to somewhere else.
func readLayout(folder string) (v1.ImageIndex, error) {
	info, err := os.Lstat(filepath.Join(folder, "index.json"))
	if err != nil {
		return nil, fmt.Errorf("not an OCI image layout: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxDocument {
		return nil, fmt.Errorf("not an OCI image layout: index.json is %v of %d bytes", info.Mode(), info.Size())
	}
	return layout.ImageIndexFromPath(folder)
}

// chooseTag leaves the manifests with the tag, or all if there is none.
func chooseTag(all []v1.Descriptor, tag string) ([]v1.Descriptor, error) {
	if len(all) == 0 {
		return nil, errors.New("the index has no image")
	}
	if tag == "" {
		return all, nil
	}
	var chosen []v1.Descriptor
	var tags []string
	for _, d := range all {
		if t := d.Annotations[tagAnnotation]; t == tag {
			chosen = append(chosen, d)
		} else if t != "" {
			tags = append(tags, t)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no image has the tag %q, there are %q", tag, tags)
	}
	return chosen, nil
}

// choosePlatform picks the one manifest that this machine can run.
func choosePlatform(all []v1.Descriptor) (v1.Descriptor, error) {
	if len(all) == 1 {
		return all[0], nil // what it is for is seen in its configuration
	}
	var chosen []v1.Descriptor
	var there []string
	for _, d := range all {
		if d.Platform != nil && d.Platform.OS == platform().OS && d.Platform.Architecture == platform().Architecture {
			chosen = append(chosen, d)
		}
		there = append(there, fmt.Sprintf("%s (%v)", d.Annotations[tagAnnotation], d.Platform))
	}
	// Of variants (amd64/v2) the one for every processor is taken.
	for _, d := range chosen {
		if d.Platform.Variant == "" && len(chosen) > 1 {
			return d, nil
		}
	}
	if len(chosen) != 1 {
		return v1.Descriptor{}, fmt.Errorf("%d images are for %v, name one by its tag; there are %s", len(chosen), platform(), strings.Join(there, ", "))
	}
	return chosen[0], nil
}

// openIndex follows indexes down to the image. What is read is checked against its digest.
func openIndex(folder string, index v1.ImageIndex, all []v1.Descriptor, depth int) (source, error) {
	d, err := choosePlatform(all)
	if err != nil {
		return nil, err
	}
	if err := checkDocument(folder, d); err != nil {
		return nil, err
	}
	if !d.MediaType.IsIndex() {
		return openManifest(folder, index, d)
	}
	if depth == maxIndexDepth {
		return nil, fmt.Errorf("more than %d indexes in one another", maxIndexDepth)
	}
	below, err := index.ImageIndex(d.Digest)
	if err != nil {
		return nil, fmt.Errorf("index %v: %w", d.Digest, err)
	}
	manifests, err := below.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("index %v: %w", d.Digest, err)
	}
	if len(manifests.Manifests) == 0 {
		return nil, fmt.Errorf("index %v has no image", d.Digest)
	}
	return openIndex(folder, below, manifests.Manifests, depth+1)
}

// checkDocument reads a blob that is a small document and compares size and digest.
func checkDocument(folder string, d v1.Descriptor) error {
	if d.Size > maxDocument {
		return fmt.Errorf("%v: says that it has %d bytes, more than %d", d.Digest, d.Size, maxDocument)
	}
	f, err := layout.Path(folder).Blob(d.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	digest, size, err := v1.SHA256(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return fmt.Errorf("%v: %w", d.Digest, err)
	}
	if digest != d.Digest || size != d.Size {
		return fmt.Errorf("%v of %d bytes: has the digest %v and %d bytes", d.Digest, d.Size, digest, size)
	}
	return nil
}

func openManifest(folder string, index v1.ImageIndex, d v1.Descriptor) (source, error) {
	image, err := index.Image(d.Digest)
	if err != nil {
		return nil, fmt.Errorf("manifest %v: %w", d.Digest, err)
	}
	manifest, err := image.Manifest()
	if err != nil {
		return nil, fmt.Errorf("manifest %v: %w", d.Digest, err)
	}
	if err := checkDocument(folder, manifest.Config); err != nil {
		return nil, fmt.Errorf("configuration %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("configuration %v: %w", manifest.Config.Digest, err)
	}
	if len(manifest.Layers) != len(config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("manifest %v has %d layers, its configuration %d", d.Digest, len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	o := &ociImage{id: d.Digest.String(), image: image, config: config, compressed: manifest.Layers}
	return o, o.check()
}

// assemble unpacks the layers, the lowest first.
func (o *ociImage) assemble(ctx context.Context, t *tree) (Config, error) {
	layers, err := o.image.Layers()
	if err != nil {
		return Config{}, err
	}
	if len(layers) != len(o.config.RootFS.DiffIDs) {
		return Config{}, fmt.Errorf("%d layers, and %d in the configuration", len(layers), len(o.config.RootFS.DiffIDs))
	}
	left := t.max
	for i, l := range layers {
		if o.compressed != nil {
			if err := checkLayer(ctx, l, o.compressed[i]); err != nil {
				return Config{}, fmt.Errorf("layer %d: %w", i, err)
			}
		}
		if err := o.unpack(ctx, t, l, o.config.RootFS.DiffIDs[i], &left); err != nil {
			return Config{}, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	c := o.config.Config
	return Config{Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, WorkingDir: c.WorkingDir, User: c.User}, mountPoints(t)
}

// checkLayer compares a compressed layer with the manifest, before anything of it is unpacked.
func checkLayer(ctx context.Context, l v1.Layer, d v1.Descriptor) error {
	r, err := l.Compressed()
	if err != nil {
		return err
	}
	defer r.Close()
	digest, size, err := v1.SHA256(&bounded{ctx: ctx, r: r, left: &d.Size})
	if err == nil && digest != d.Digest {
		err = fmt.Errorf("%v: has the digest %v and %d bytes", d.Digest, digest, size)
	}
	return err
}

// unpack applies a layer and checks that it was the one the configuration names.
func (o *ociImage) unpack(ctx context.Context, t *tree, l v1.Layer, want v1.Hash, left *int64) error {
	r, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer r.Close()
	seen := sha256.New()
	stream := io.TeeReader(&bounded{ctx: ctx, r: r, left: left}, seen)
	if err := apply(ctx, t, stream); err != nil {
		return err
	}
	// Padding after the archive's end is part of the digest.
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return err
	}
	if got := hex.EncodeToString(seen.Sum(nil)); want.Algorithm != "sha256" || got != want.Hex {
		return fmt.Errorf("%v: has the digest sha256:%s, unpacked", want, got)
	}
	return nil
}

// bounded reads until the context ends, and fails after *left bytes.
type bounded struct {
	ctx  context.Context
	r    io.Reader
	left *int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := b.r.Read(p)
	if *b.left -= int64(n); *b.left < 0 {
		return 0, errors.New("larger than it may be")
	}
	return n, err
}
