package image_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"svcproxy/sandbox/image"
	"svcproxy/test/nstest"
)

// archive is a tar of the headers; a file's content is its Linkname, and its mode 0644 if it has none.
func archive(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		var content string
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname = h.Linkname, ""
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func dir(name string, mode int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}
}
func file(name, content string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: content}
}
func symlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}
func hardlink(name, old string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: old}
}

func ociImage(t testing.TB, layers ...[]byte) v1.Image {
	t.Helper()
	i := v1.Image(empty.Image)
	for _, l := range layers {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(l)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if i, err = mutate.AppendLayers(i, layer); err != nil {
			t.Fatal(err)
		}
	}
	return configured(t, i, func(c *v1.ConfigFile) { c.OS, c.Architecture = "linux", runtime.GOARCH })
}

func configured(t testing.TB, i v1.Image, change func(*v1.ConfigFile)) v1.Image {
	t.Helper()
	c, err := i.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	change(c)
	if i, err = mutate.ConfigFile(i, c); err != nil {
		t.Fatal(err)
	}
	return i
}

func writeLayout(t testing.TB, images map[string]v1.Image) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "layout")
	p, err := layout.Write(folder, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for tag, i := range images {
		if err := p.AppendImage(i, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag})); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// pack makes a tar file of a folder's files.
func pack(t testing.TB, folder string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "archive.tar")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(out, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return out
}

func writeDocker(t testing.TB, tag string, i v1.Image) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "docker.tar")
	ref, err := name.NewTag(tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(out, ref, i); err != nil {
		t.Fatal(err)
	}
	return out
}

// list is what is in a root, without its mount points: name, type, permissions and content or target.
func list(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	err := filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		name, content := strings.TrimPrefix(path, root+"/"), ""
		switch {
		case path == root || slices.Contains([]string{"dev", "etc", "proc", "root", "run", "sys", "tmp", "var", "var/tmp", "var/log"}, name):
			return nil
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			all = append(all, name+" -> "+target)
			return err
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = " " + string(b)
		}
		all = append(all, fmt.Sprintf("%s %v%s", name, info.Mode(), content))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// An image in each of its three forms is the same root and configuration.
func TestOCIForms(t *testing.T) {
	i := ociImage(t,
		archive(t, dir("usr/", 0o755), dir("usr/bin/", 0o755), symlink("bin", "usr/bin"), file("usr/bin/tool", "one"), file("gone", "x"),
			dir("kept/", 0o700), file("kept/a", "a"), file("kept/b", "b"), dir("cleared/", 0o755), file("cleared/old", "old")),
		archive(t, file("bin/tool", "two"), file(".wh.gone", ""), file("kept/.wh.a", ""), file("cleared/new", "new"), file("cleared/.wh..wh..opq", "")))
	i = configured(t, i, func(c *v1.ConfigFile) {
		c.Config = v1.Config{Entrypoint: []string{"/bin/tool"}, Cmd: []string{"-v"}, Env: []string{"A=b"}, WorkingDir: "/kept", User: "1:2"}
	})
	want := []string{"bin -> usr/bin", "cleared drwxr-xr-x", "cleared/new -rw-r--r-- new", "kept drwx------", "kept/b -rw-r--r-- b",
		"usr drwxr-xr-x", "usr/bin drwxr-xr-x", "usr/bin/tool -rw-r--r-- two"}
	config := image.Config{Entrypoint: []string{"/bin/tool"}, Cmd: []string{"-v"}, Env: []string{"A=b"}, WorkingDir: "/kept", User: "1:2"}

	folder := writeLayout(t, map[string]v1.Image{"v1": i})
	for _, reference := range []string{
		"oci:" + folder, "oci:" + folder + ":v1", "oci-archive:" + pack(t, folder) + ":v1",
		"docker-archive:" + writeDocker(t, "box:1.36", i), "docker-archive:" + writeDocker(t, "box:1.36", i) + ":box:1.36",
	} {
		s := store(t, image.Options{})
		got := get(t, s, reference)
		if diff := cmp.Diff(want, list(t, got.Layers[0])); diff != "" {
			t.Errorf("%s: %s", reference, diff)
		}
		if diff := cmp.Diff(config, got.Config); diff != "" {
			t.Errorf("%s: %s", reference, diff)
		}
		if again := get(t, s, reference); again.Layers[0] != got.Layers[0] {
			t.Errorf("%s: %s, then %s", reference, got.Layers[0], again.Layers[0])
		}
	}
}

func TestOCIChoosesByTagAndPlatform(t *testing.T) {
	other := map[bool]string{true: "arm64", false: "amd64"}[runtime.GOARCH == "amd64"]
	one, two := ociImage(t, archive(t, file("name", "one"))), ociImage(t, archive(t, file("name", "two")))
	foreign := configured(t, two, func(c *v1.ConfigFile) { c.Architecture = other })
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: foreign, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: other}}},
		mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})
	folder := writeLayout(t, map[string]v1.Image{"one": one, "two": two, "foreign": foreign})
	if err := layout.Path(folder).AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "many"})); err != nil {
		t.Fatal(err)
	}
	s := store(t, image.Options{})
	for tag, want := range map[string]string{"one": "one", "two": "two", "many": "one"} {
		i := get(t, s, "oci:"+folder+":"+tag)
		if diff := cmp.Diff([]string{"name -rw-r--r-- " + want}, list(t, i.Layers[0])); diff != "" {
			t.Errorf("%s: %s", tag, diff)
		}
	}
	for reference, want := range map[string]string{
		"oci:" + folder + ":three":                              "no image has the tag \"three\"",
		"oci:" + folder + ":foreign":                            "is for linux/" + other,
		"oci:" + folder:                                         "name one by its tag",
		"oci:" + t.TempDir():                                    "not an OCI image layout",
		"oci:/nosuch":                                           "no such file",
		"oci-archive:/nosuch.tar":                               "no such file",
		"oci-archive:" + folder:                                 "not a regular file",
		"docker-archive:" + pack(t, folder):                     "not a docker archive",
		"docker-archive:" + writeDocker(t, "a:1", one) + ":b:1": "not found in tarball",
	} {
		if _, err := tryGet(t.Context(), s, reference); err == nil || !strings.HasPrefix(err.Error(), reference+": ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", reference, err)
		}
	}
}

// A byte changed anywhere is noticed, and nothing of the image stays.
func TestOCIDamaged(t *testing.T) {
	folder := writeLayout(t, map[string]v1.Image{"v1": ociImage(t, archive(t, file("a", strings.Repeat("content ", 100))))})
	blobs, err := filepath.Glob(filepath.Join(folder, "blobs/sha256/*"))
	if err != nil || len(blobs) != 3 {
		t.Fatal(blobs, err)
	}
	for _, blob := range blobs {
		good, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{0, 4, len(good) / 2, len(good) - 1} { // 4: the time in gzip's header, which changes no content
			bad := slices.Clone(good)
			bad[at] ^= 1
			refused(t, folder, blob, bad)
		}
		refused(t, folder, blob, append(slices.Clone(good), 0))
		refused(t, folder, blob, good[:len(good)-1])
		if err := os.WriteFile(blob, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	get(t, store(t, image.Options{}), "oci:"+folder)
}

func refused(t *testing.T, folder, blob string, content []byte) {
	t.Helper()
	if err := os.WriteFile(blob, content, 0o644); err != nil {
		t.Fatal(err)
	}
	options := image.Options{Dir: filepath.Join(t.TempDir(), "store")}
	if _, err := tryGet(t.Context(), store(t, options), "oci:"+folder); err == nil {
		t.Errorf("%s: a changed blob was taken", blob)
	}
	for _, dir := range []string{"tmp", "roots"} {
		if left, err := os.ReadDir(filepath.Join(options.Dir, dir)); err != nil || len(left) > 0 {
			t.Errorf("%s: %v left, %v", dir, left, err)
		}
	}
}

// A layer that is not what the configuration says is refused, even if the manifest agrees with it.
func TestOCIOtherContent(t *testing.T) {
	i := configured(t, ociImage(t, archive(t, file("a", "x"))), func(c *v1.ConfigFile) {
		c.RootFS.DiffIDs = []v1.Hash{{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}}
	})
	folder := writeLayout(t, map[string]v1.Image{"": i})
	if _, err := tryGet(t.Context(), store(t, image.Options{}), "oci:"+folder); err == nil || !strings.Contains(err.Error(), "unpacked") {
		t.Error(err)
	}
}

// Owners are shifted; those that a pod can't have become nobody.
func TestOCIOwners(t *testing.T) {
	const base = 1 << 30
	if os.Lchown(t.TempDir(), base, base) != nil {
		return // an ordinary user; TestHostOwners looks at what happens then
	}
	folder := writeLayout(t, map[string]v1.Image{"": ociImage(t, archive(t,
		tar.Header{Typeflag: tar.TypeReg, Name: "a", Uid: 5, Gid: 6}, tar.Header{Typeflag: tar.TypeDir, Name: "b", Uid: 65535, Gid: 65536},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "c", Linkname: "a", Uid: 1 << 31, Gid: -1}))})
	i := get(t, store(t, image.Options{UIDBase: base}), "oci:"+folder)
	for name, want := range map[string][2]uint32{"a": {base + 5, base + 6}, "b": {base + 65535, base + 65534}, "c": {base + 65534, base + 65534}, "tmp": {base, base}} {
		info, err := os.Lstat(filepath.Join(i.Layers[0], name))
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != want[0] || st.Gid != want[1] {
			t.Errorf("%s: %d:%d, want %d", name, st.Uid, st.Gid, want)
		}
	}
}

// docker save's archive has no digest but those in its configuration.
func TestDockerDamaged(t *testing.T) {
	file := writeDocker(t, "a:1", ociImage(t, archive(t, file("a", "content"), file("b", "content"))))
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	taken, step := 0, nstest.Sized(409, 101)
	for at := 0; at < len(good); at += step {
		bad := slices.Clone(good)
		bad[at] ^= 0x10
		if err := os.WriteFile(file, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		i, err := tryGet(t.Context(), store(t, image.Options{}), "docker-archive:"+file)
		if err != nil {
			continue
		}
		taken++ // padding, say
		if diff := cmp.Diff([]string{"a -rw-r--r-- content", "b -rw-r--r-- content"}, list(t, i.Layers[0])); diff != "" {
			t.Errorf("byte %d: %s", at, diff)
		}
	}
	t.Logf("%d of %d changes are in padding", taken, len(good)/step+1)
}
