package image_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"svcproxy/sandbox/image"
)

func TestParseReference(t *testing.T) {
	for text, want := range map[string]image.Reference{
		"host:bash":                        {Kind: image.Host, Programs: []string{"bash"}},
		"host:bash,ls,/opt/x/../tool":      {Kind: image.Host, Programs: []string{"bash", "ls", "/opt/tool"}},
		"host:[":                           {Kind: image.Host, Programs: []string{"["}},
		"rootfs:/srv/root":                 {Kind: image.RootFS, Path: "/srv/root"},
		"rootfs:/srv/a:b/":                 {Kind: image.RootFS, Path: "/srv/a:b"},
		"oci:/srv/layout":                  {Kind: image.OCI, Path: "/srv/layout"},
		"oci:/srv/layout:v1":               {Kind: image.OCI, Path: "/srv/layout", Tag: "v1"},
		"oci-archive:/a.tar:example:v1":    {Kind: image.OCIArchive, Path: "/a.tar", Tag: "example:v1"},
		"docker-archive:/a.tar:box:1.36":   {Kind: image.DockerArchive, Path: "/a.tar", Tag: "box:1.36"},
		"docker-archive:/with space/a.tar": {Kind: image.DockerArchive, Path: "/with space/a.tar"},
	} {
		got, err := image.ParseReference(text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", text, err, diff)
		}
	}
}

func TestParseReferenceRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                    "unknown image reference",
		"nginx:1.25":          "nothing is pulled from a registry",
		"docker://nginx":      "unknown image reference",
		"host":                "unknown image reference",
		"host:":               "name is empty",
		"host:a,,b":           "name is empty",
		"host:a,a":            "named twice",
		"host:/bin/a,/bin//a": "named twice",
		"host:bin/a":          "absolute path",
		"host:..":             "absolute path",
		"host:/":              "is not a program",
		"host:a, b":           "space",
		"host:a\nb":           "control characters",
		"rootfs:srv":          "not absolute",
		"oci:":                "not absolute",
		"oci:layout:v1":       "not absolute",
		"oci:/layout:":        "tag after the last colon is empty",
	} {
		r, err := image.ParseReference(text)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), strings.TrimSuffix(text, "\nb")) {
			t.Errorf("%q: %v, %v", text, r, err)
		}
	}
}

// What is parsed can be written and is the same again, and names no path outside of its own.
func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"host:bash,ls,/opt/tool", "rootfs:/a/../b", "oci:/a:b:c", "oci-archive:/a.tar", "docker-archive:/a.tar:box:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := image.ParseReference(s)
		if err != nil {
			return
		}
		again, err := image.ParseReference(r.String())
		if diff := cmp.Diff(r, again); err != nil || diff != "" {
			t.Fatalf("%q: %v %s", s, err, diff)
		}
		if r.Kind != image.Host && !strings.HasPrefix(r.Path, "/") {
			t.Fatalf("%q: %#v", s, r)
		}
	})
}
