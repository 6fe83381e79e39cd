package image

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Whatever a layer's tar says, nothing changes outside of the tree, nothing in it is a device or
// gains privileges, and all of it can be removed.
func FuzzLayer(f *testing.F) {
	for _, headers := range [][]tar.Header{
		{{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o700}, {Typeflag: tar.TypeSymlink, Name: "d/l", Linkname: "../../outside"}, {Typeflag: tar.TypeReg, Name: "d/l/f", Mode: 0o4755}},
		{{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "/outside"}, {Typeflag: tar.TypeLink, Name: "h", Linkname: "l/secret"}},
		{{Typeflag: tar.TypeReg, Name: "a/b"}, {Typeflag: tar.TypeReg, Name: "a/.wh.b"}, {Typeflag: tar.TypeReg, Name: ".wh..wh..opq"}},
		{{Typeflag: tar.TypeChar, Name: "dev/null", Devmajor: 1, Devminor: 3}, {Typeflag: tar.TypeReg, Name: "../outside/f"}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, layer []byte) {
		base := t.TempDir()
		outside := filepath.Join(base, "outside")
		if err := os.Mkdir(outside, 0o755); err != nil {
			t.Fatal(err)
		}
		folder := filepath.Join(base, "root")
		tree, err := newTree(folder, 0, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		defer tree.close()
		if apply(t.Context(), tree, bytes.NewReader(layer)) == nil {
			if err := tree.finish(); err != nil {
				t.Fatal(err)
			}
		}
		if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
			t.Fatal(entries, err)
		}
		if entries, err := os.ReadDir(base); err != nil || len(entries) != 2 {
			t.Fatal(entries, err)
		}
		checkHarmless(t, folder)
		if err := RemoveAll(folder); err != nil {
			t.Fatal(err)
		}
	})
}

func checkHarmless(t *testing.T, folder string) {
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // closed to an ordinary user
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		if info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0 {
			t.Errorf("%s: %v", path, info.Mode())
		}
		if n, err := syscall.Listxattr(path, nil); err == nil && n > 0 && d.Type().IsRegular() {
			t.Errorf("%s has extended attributes", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
