package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"svcproxy/sandbox/image"
)

// What a hostile or broken layer asks for happens inside of the image or not at all.
func TestHostileLayers(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	secret := filepath.Join(outside, "secret")
	escape := strings.Repeat("../", 40)
	for name, c := range map[string]struct {
		layers [][]tar.Header
		want   []string // in the root; nil: refused
		says   string
		skip   int
	}{
		"dots":                  {layers: [][]tar.Header{{file(escape+secret, "bad")}}, says: "leads outside"},
		"dots inside":           {layers: [][]tar.Header{{file("a/../../b", "bad")}}, says: "leads outside"},
		"absolute":              {layers: [][]tar.Header{{file("/abs", "x")}}, want: []string{"abs -rw-r--r-- x"}},
		"through a symlink":     {layers: [][]tar.Header{{symlink("l", outside), file("l/secret", "bad")}}, want: insideOf(outside, "bad", "l -> "+outside)},
		"relative symlink":      {layers: [][]tar.Header{{symlink("l", escape+outside[1:]), file("l/secret", "bad")}}, want: insideOf(outside, "bad", "l -> "+escape+outside[1:])},
		"symlink later":         {layers: [][]tar.Header{{symlink("l", outside)}, {file("l/secret", "bad")}}, want: insideOf(outside, "bad", "l -> "+outside)},
		"over a symlink":        {layers: [][]tar.Header{{symlink("l", secret), file("l", "mine")}}, want: []string{"l -rw-r--r-- mine"}},
		"folder on symlink":     {layers: [][]tar.Header{{symlink("l", outside), dir("l", 0o777)}}, want: []string{"l drwxrwxrwx"}},
		"symlink loop":          {layers: [][]tar.Header{{symlink("l", "l"), file("l/a", "x")}}, says: "too many levels"},
		"hard link outside":     {layers: [][]tar.Header{{hardlink("h", escape+secret)}}, says: "leads outside"},
		"hard link absolute":    {layers: [][]tar.Header{{hardlink("h", secret)}}, says: "no such file"},
		"hard link through":     {layers: [][]tar.Header{{symlink("l", outside), hardlink("h", "l/secret")}}, says: "no such file"},
		"hard link to link":     {layers: [][]tar.Header{{symlink("l", secret), hardlink("h", "l"), file("h", "mine")}}, want: []string{"h -rw-r--r-- mine", "l -> " + secret}},
		"hard link":             {layers: [][]tar.Header{{file("a", "x"), hardlink("h", "a")}}, want: []string{"a -rw-r--r-- x", "h -rw-r--r-- x"}},
		"hard link to self":     {layers: [][]tar.Header{{file("a", "x"), hardlink("a", "a")}}, want: []string{"a -rw-r--r-- x"}},
		"hard link to a folder": {layers: [][]tar.Header{{dir("d", 0o755), hardlink("h", "d")}}, says: "is a folder"},
		"whiteout dots":         {layers: [][]tar.Header{{file("a/.wh...", "")}}, says: "whiteout of no file"},
		"whiteout nothing":      {layers: [][]tar.Header{{file(".wh.", "")}}, says: "whiteout of no file"},
		"whiteout outside":      {layers: [][]tar.Header{{symlink("l", outside), file("l/.wh.secret", "")}}, want: []string{"l -> " + outside}},
		"opaque outside":        {layers: [][]tar.Header{{symlink("l", outside), file("l/.wh..wh..opq", "")}}, want: []string{"l -> " + outside}},
		"opaque root": {layers: [][]tar.Header{{file("a", "x"), dir("d", 0o755), file("d/a", "x")}, {file("d/b", "y"), file(".wh..wh..opq", "")}},
			want: []string{"d drwxr-xr-x", "d/b -rw-r--r-- y"}},
		"whiteout before":   {layers: [][]tar.Header{{file("a", "x")}, {file(".wh.a", ""), file("a", "y")}}, want: []string{"a -rw-r--r-- y"}},
		"whiteout after":    {layers: [][]tar.Header{{file("a", "x")}, {file("a", "y"), file(".wh.a", "")}}, want: []string{"a -rw-r--r-- y"}},
		"root as a file":    {layers: [][]tar.Header{{file(".", "x")}}, says: "root directory"},
		"root as a symlink": {layers: [][]tar.Header{{symlink(".", outside)}}, says: "root directory"},
		"below a file":      {layers: [][]tar.Header{{file("a", "x"), file("a/b", "y")}}, says: "not a directory"},
		"set-user-ID": {layers: [][]tar.Header{{{Typeflag: tar.TypeReg, Name: "a", Linkname: "x", Mode: 0o6755}, {Typeflag: tar.TypeDir, Name: "d", Mode: 0o7777}}},
			want: []string{"a -rwxr-xr-x x", "d dtrwxrwxrwx"}},
		"devices": {layers: [][]tar.Header{{file("b", "below")}, {{Typeflag: tar.TypeChar, Name: "a", Devmajor: 1, Devminor: 3},
			{Typeflag: tar.TypeBlock, Name: "b", Devmajor: 8}, {Typeflag: tar.TypeFifo, Name: "c"}, file("d", "x")}}, want: []string{"d -rw-r--r-- x"}, skip: 3},
		"overlay attributes": {layers: [][]tar.Header{{{Typeflag: tar.TypeDir, Name: "d", Mode: 0o755,
			PAXRecords: map[string]string{"SCHILY.xattr.user.overlay.redirect": "/etc", "SCHILY.xattr.user.overlay.opaque": "y"}}}}, want: []string{"d drwxr-xr-x"}},
		"bad names":   {layers: [][]tar.Header{{file("a\\..\\b\n", "x")}}, want: []string{"a\\..\\b\n -rw-r--r-- x"}},
		"unreadable":  {layers: [][]tar.Header{{dir("d", 0o000), file("d/a", "x")}, {file("d/b", "y"), file("d/.wh.a", ""), dir("d", 0o500)}}, want: []string{"d dr-x------", "d/b -rw-r--r-- y"}},
		"many owners": {layers: [][]tar.Header{{{Typeflag: tar.TypeReg, Name: "a", Linkname: "x", Uid: 1 << 30, Gid: -1}}}, want: []string{"a -rw-r--r-- x"}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.MkdirAll(outside, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
				t.Fatal(err)
			}
			var layers [][]byte
			for _, headers := range c.layers {
				layers = append(layers, archive(t, headers...))
			}
			folder := writeLayout(t, map[string]v1.Image{"": ociImage(t, layers...)})
			i, err := tryGet(t.Context(), store(t, image.Options{}), "oci:"+folder)
			switch {
			case c.want == nil && (err == nil || !strings.Contains(err.Error(), c.says)):
				t.Errorf("%v, want: %s", err, c.says)
			case c.want != nil && err != nil:
				t.Error(err)
			case c.want != nil:
				if diff := cmp.Diff(c.want, list(t, i.Layers[0])); diff != "" {
					t.Error(diff)
				}
				if i.Skipped != c.skip {
					t.Errorf("%d skipped, want %d", i.Skipped, c.skip)
				}
			}
			left, err := os.ReadFile(secret)
			if entries, _ := os.ReadDir(outside); err != nil || string(left) != "secret" || len(entries) != 1 {
				t.Errorf("outside: %q %v %v", left, entries, err)
			}
		})
	}
}

// insideOf is a file "secret" whose folder's path was made in the root.
func insideOf(outside, content string, others ...string) []string {
	var all []string
	for at := ""; ; {
		rest := strings.TrimPrefix(outside[len(at):], "/")
		if rest == "" {
			break
		}
		next, _, _ := strings.Cut(rest, "/")
		at += "/" + next
		if at[1:] != "tmp" {
			all = append(all, at[1:]+" drwxr-xr-x")
		}
	}
	return append(append(others, all...), outside[1:]+"/secret -rw-r--r-- "+content)
}

// An image that unpacks to more than it may is stopped.
func TestHostileSizes(t *testing.T) {
	big := make([]byte, 1<<20)
	many := make([]tar.Header, 0, 100)
	for range cap(many) {
		many = append(many, dir("d"+strings.Repeat("x", len(many)%50)+string(rune('a'+len(many)%26))+strings.Repeat("y", len(many)/50), 0o755))
	}
	for name, layers := range map[string][][]byte{
		"a large file":   {archive(t, file("big", string(big)))},
		"many files":     {archive(t, many...)},
		"several layers": {archive(t, file("a", string(big[:200<<10]))), archive(t, file("a", string(big[:200<<10])))},
		"much padding":   {append(archive(t, file("a", "x")), big...)},
	} {
		folder := writeLayout(t, map[string]v1.Image{"": ociImage(t, layers...)})
		_, err := tryGet(t.Context(), store(t, image.Options{MaxBytes: 300 << 10}), "oci:"+folder)
		if err == nil || !strings.Contains(err.Error(), "larger than") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := tryGet(t.Context(), store(t, image.Options{MaxBytes: 1 << 30}), "oci:"+folder); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHostileArchives(t *testing.T) {
	good := writeLayout(t, map[string]v1.Image{"": ociImage(t, archive(t, file("a", "x")))})
	packed, err := os.ReadFile(pack(t, good))
	if err != nil {
		t.Fatal(err)
	}
	var compressed bytes.Buffer
	z := gzip.NewWriter(&compressed)
	if _, err := z.Write(packed); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "outside")
	for name, c := range map[string]struct {
		kind    string
		content []byte
		says    string
	}{
		"compressed":      {"oci-archive", compressed.Bytes(), "is compressed"},
		"cut":             {"oci-archive", packed[:len(packed)/2], "EOF"},
		"empty":           {"oci-archive", nil, "not an OCI image layout"},
		"no tar":          {"oci-archive", bytes.Repeat([]byte("no tar"), 1000), "read tar"},
		"index outside":   {"oci-archive", archive(t, symlink("index.json", "/etc/passwd")), "not an OCI image layout"},
		"blob outside":    {"oci-archive", archive(t, symlink("blobs", filepath.Dir(outside)), file("blobs/outside", "bad"), file("../outside", "bad")), "not an OCI image layout"},
		"no manifest":     {"docker-archive", archive(t, file("a", "x")), "not a docker archive"},
		"manifest a link": {"docker-archive", archive(t, symlink("manifest.json", "/etc/passwd")), "not a docker archive"},
		"config missing":  {"docker-archive", archive(t, file("manifest.json", `[{"Config":"c"}]`)), "not a docker archive"},
		"config a loop":   {"docker-archive", archive(t, file("manifest.json", `[{"Config":"c"}]`), symlink("c", "c")), "not a docker archive"},
		"no image":        {"docker-archive", archive(t, file("manifest.json", `[]`)), "single image"},
		"null":            {"docker-archive", archive(t, file("manifest.json", `null`)), "manifest"},
		"layers missing":  {"docker-archive", archive(t, file("manifest.json", `[{"Config":"c","Layers":["l"]}]`), file("c", `{}`)), "l"},
		"fewer digests":   {"docker-archive", archive(t, file("manifest.json", `[{"Config":"c","Layers":["l"]}]`), file("c", `{"rootfs":{"diff_ids":[]}}`), file("l", "")), "has 1 layers, and 0 in its configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			archive := filepath.Join(t.TempDir(), "a.tar")
			if err := os.WriteFile(archive, c.content, 0o644); err != nil {
				t.Fatal(err)
			}
			i, err := tryGet(t.Context(), store(t, image.Options{}), c.kind+":"+archive)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, %v; want: %s", i, err, c.says)
			}
			if _, err := os.Lstat(outside); err == nil {
				t.Error("a file was written outside")
			}
		})
	}
}
