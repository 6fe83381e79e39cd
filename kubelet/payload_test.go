package kubelet

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func owner() ownership {
	return ownership{own: func(string, int, int) error { return nil }}
}

// shown lists a volume as a container sees it: content and mode by path.
func shown(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		root := filepath.Join(dir, e.Name())
		target, err := filepath.EvalSymlinks(root)
		if err != nil {
			t.Fatal(err)
		}
		_ = filepath.WalkDir(target, func(path string, d fs.DirEntry, _ error) error {
			if d.Type().IsRegular() {
				data, _ := os.ReadFile(path)
				info, _ := d.Info()
				out = append(out, fmt.Sprintf("%s%s=%s:%o", e.Name(), strings.TrimPrefix(path, target), data, info.Mode().Perm()))
			}
			return nil
		})
	}
	return strings.Join(out, " ")
}

func TestVolumeOfFilesIsUpdatedAtomically(t *testing.T) {
	dir := t.TempDir()
	write := func(p payload) {
		t.Helper()
		if err := p.write(dir, owner()); err != nil {
			t.Fatal(err)
		}
	}
	write(payload{"a": {[]byte("1"), 0o644}, "sub/b": {[]byte("2"), 0o400}})
	if got := shown(t, dir); got != "a=1:644 sub/b=2:400" {
		t.Errorf("shown %s", got)
	}
	open, err := os.Open(filepath.Join(dir, "..data"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	first, _ := os.Readlink(filepath.Join(dir, "..data"))
	write(payload{"a": {[]byte("1"), 0o644}, "sub/b": {[]byte("2"), 0o400}})
	if again, _ := os.Readlink(filepath.Join(dir, "..data")); again != first {
		t.Error("the same files were written again")
	}
	write(payload{"a": {[]byte("new"), 0o644}, "c": {[]byte("3"), 0o644}})
	if got := shown(t, dir); got != "a=new:644 c=3:644" {
		t.Errorf("shown %s", got)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "..data_*")); len(left) != 1 {
		t.Errorf("old files are left: %v", left)
	}
	write(payload{})
	if got := shown(t, dir); got != "" {
		t.Errorf("shown %s", got)
	}
}

func TestGroupOfAVolumeMayRead(t *testing.T) {
	dir, group := t.TempDir(), int64(1000)
	o := owner()
	o.group = &group
	if err := (payload{"a": {nil, 0o200}}).write(dir, o); err != nil {
		t.Fatal(err)
	}
	if got := shown(t, dir); got != "a=:640" {
		t.Errorf("shown %s", got)
	}
}

func TestPayloads(t *testing.T) {
	yes, secret := true, int32(0o400)
	reference := v1.LocalObjectReference{Name: "conf"}
	for name, c := range map[string]struct {
		volume v1.VolumeSource
		want   string // or the error
	}{
		"config map": {v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: reference}}, "K=v:644 L=w:644"},
		"items": {v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: reference,
			Items: []v1.KeyToPath{{Key: "K", Path: "x/y", Mode: &secret}}}}, "x/y=v:400"},
		"missing key": {v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: reference,
			Items: []v1.KeyToPath{{Key: "Z", Path: "z"}}}}, "volume v: configmap conf references non-existent key: Z"},
		"secret":   {v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "secret", DefaultMode: &secret}}, "P=pass:400"},
		"missing":  {v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "none"}}, `volume v: secret "none" not found`},
		"optional": {v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "none", Optional: &yes}}, ""},
		"downward": {v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{
			{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
			{Path: "mem", ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "main", Resource: "limits.memory"}},
		}}}, "labels=a=\"q\\\"1\"\nb=\"2\":644 mem=67108864:644"},
		"projected": {v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
			{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: reference, Items: []v1.KeyToPath{{Key: "K", Path: "k"}}}},
			{Secret: &v1.SecretProjection{LocalObjectReference: v1.LocalObjectReference{Name: "secret"}}},
		}}}, "P=pass:644 k=v:644"},
		"upwards": {v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: reference,
			Items: []v1.KeyToPath{{Key: "K", Path: "a/../../b"}}}}, "must be relative"},
	} {
		p, ok, err := aSource().payloadOf(&v1.Volume{Name: "v", VolumeSource: c.volume})
		var got []string
		for _, path := range sortedKeys(p) {
			got = append(got, fmt.Sprintf("%s=%s:%o", path, p[path].data, p[path].mode))
		}
		switch text := strings.Join(got, " "); {
		case !ok:
			t.Errorf("%s: not a volume of files", name)
		case err != nil && (c.want == "" || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v", name, err)
		case err == nil && text != c.want:
			t.Errorf("%s: %q, want %q", name, text, c.want)
		}
	}
}
