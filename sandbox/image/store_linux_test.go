package image_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"svcproxy/sandbox/image"
)

func names(t *testing.T, folder ...string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(folder...))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// Many pods, in many stores on one folder as if of several processes, share one root.
func TestStoreAssemblesOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	folder := writeLayout(t, map[string]v1.Image{"": ociImage(t, archive(t, file("a", "x")))})
	stores := []*image.Store{store(t, image.Options{Dir: dir}), store(t, image.Options{Dir: dir})}
	var wg sync.WaitGroup
	layers := make([]string, 32)
	for i := range layers {
		wg.Go(func() {
			got, err := tryGet(t.Context(), stores[i%2], []string{"host:bash", "oci:" + folder}[i/2%2])
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := os.Stat(filepath.Join(got.Layers[0], "tmp")); err != nil {
				t.Error("given before it was whole:", err)
			}
			layers[i] = got.Layers[0]
		})
	}
	wg.Wait()
	for i := range layers {
		if layers[i] != layers[i%4] {
			t.Errorf("%s and %s", layers[i], layers[i%4])
		}
	}
	if roots, tmp := names(t, dir, "roots"), names(t, dir, "tmp"); len(roots) != 2 || len(tmp) != 0 {
		t.Errorf("roots %v, tmp %v", roots, tmp)
	}
}

// What a killed process left is removed, whatever its modes, but not what another is assembling.
func TestStoreLeftovers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	kept := get(t, store(t, image.Options{Dir: dir}), "host:bash")
	half := filepath.Join(dir, "tmp/half/root/closed")
	if err := os.MkdirAll(filepath.Join(half, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(half, 0); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	store(t, image.Options{Dir: dir})
	if diff := cmp.Diff([]string{"half"}, names(t, dir, "tmp")); diff != "" {
		t.Error("while another assembles:", diff)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	s := store(t, image.Options{Dir: dir})
	if left := names(t, dir, "tmp"); len(left) != 0 {
		t.Error("left:", left)
	}
	if again := get(t, s, "host:bash"); again.Layers[0] != kept.Layers[0] {
		t.Errorf("%v, then %v", kept, again)
	}
}

// A context that ends stops the assembly, leaves nothing, and the next caller gets its root.
func TestStoreContext(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := store(t, image.Options{Dir: dir})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tryGet(ctx, s, "host:bash"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left := append(names(t, dir, "tmp"), names(t, dir, "roots")...); len(left) != 0 {
		t.Error("left:", left)
	}
	get(t, s, "host:bash")
}

func TestStoreRefusesForeignFolders(t *testing.T) {
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", open, link, program(t, "file", "", 0o600)} {
		if s, err := image.Open(image.Options{Dir: dir}); err == nil {
			t.Errorf("%q was taken: %v", dir, s)
		}
	}
	if _, err := image.Open(image.Options{Dir: filepath.Join(t.TempDir(), "s"), UIDBase: 1<<31 - 1}); err == nil || !strings.Contains(err.Error(), "UIDBase") {
		t.Error(err)
	}
}

// All of a store can be removed by who made it, whatever modes images ask for.
func TestRemoveClosedFolders(t *testing.T) {
	place := filepath.Join(t.TempDir(), "store")
	s := store(t, image.Options{Dir: place})
	get(t, s, "oci:"+writeLayout(t, map[string]v1.Image{"": ociImage(t, archive(t, dir("a", 0), dir("a/b", 0), file("a/b/c", "x"), dir(".", 0)))}))
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(place); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := s.Remove(); err != nil {
		t.Error("again:", err)
	}
	// Symlinks are removed, not what they lead to.
	outside := t.TempDir()
	if err := os.Chmod(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(place, "closed/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(place, "closed/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(place, "closed"), 0); err != nil {
		t.Fatal(err)
	}
	if err := image.RemoveAll(place); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(outside); err != nil || info.Mode().Perm() != 0o755 {
		t.Error(info, err)
	}
}

func TestRootFS(t *testing.T) {
	base := t.TempDir()
	for _, folder := range []string{"allowed/root", "allowed-not", "other"} {
		if err := os.MkdirAll(filepath.Join(base, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"allowed/out": "../other", "in": "allowed/root", "allowed2": "allowed"} {
		if err := os.Symlink(target, filepath.Join(base, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(base, "allowed/file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := store(t, image.Options{AllowFolders: []string{"/nosuch", filepath.Join(base, "allowed2")}})
	for _, folder := range []string{"allowed/root", "in", "allowed"} {
		i := get(t, s, "rootfs:"+filepath.Join(base, folder))
		if want, _ := filepath.EvalSymlinks(filepath.Join(base, folder)); len(i.Layers) != 1 || i.Layers[0] != want {
			t.Errorf("%s: %v", folder, i)
		}
	}
	for _, folder := range []string{"allowed-not", "allowed/out", "other", "", "allowed/../other", "allowed/root/../../other"} {
		_, err := tryGet(t.Context(), s, "rootfs:"+filepath.Join(base, folder))
		if !errors.Is(err, image.ErrNotAllowed) {
			t.Errorf("%s: %v", folder, err)
		}
	}
	for folder, want := range map[string]error{"allowed/file": nil, "nosuch": fs.ErrNotExist} {
		if _, err := tryGet(t.Context(), s, "rootfs:"+filepath.Join(base, folder)); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", folder, err)
		}
	}
}

func TestUserLookup(t *testing.T) {
	passwd := "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv/web:/bin/sh\nhomeless:x:40:40:::\n"
	group := "root:x:0:\ndaemon:x:1:\nweb:x:34:\nlogs:x:35:other,web\n"
	i := get(t, store(t, image.Options{}), "oci:"+writeLayout(t, map[string]v1.Image{"": ociImage(t,
		archive(t, symlink("etc", "/private/etc"), file("private/etc/passwd", passwd), file("private/etc/group", group)))}))
	type user struct {
		UID, GID int
		Groups   []int
		Home     string
	}
	for name, want := range map[string]user{
		"":            {0, 0, []int{}, "/root"},
		"root":        {0, 0, []int{}, "/root"},
		"web":         {33, 34, []int{35}, "/srv/web"},
		"33":          {33, 34, []int{35}, "/srv/web"},
		"web:daemon":  {33, 1, []int{}, "/srv/web"},
		"1000":        {1000, 0, []int{}, "/"},
		"1000:1000":   {1000, 1000, []int{}, "/"},
		"1000:daemon": {1000, 1, []int{}, "/"},
		"homeless":    {40, 40, []int{}, "/"},
	} {
		uid, gid, groups, home, err := i.LookupUser(name)
		if diff := cmp.Diff(want, user{uid, gid, groups, home}); err != nil || diff != "" {
			t.Errorf("%q: %v %s", name, err, diff)
		}
	}
	for _, name := range []string{"nosuch", "web:nosuch", "-1", "99999999999"} {
		if uid, _, _, _, err := i.LookupUser(name); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %d, %v", name, uid, err)
		}
	}
}

// An image's /etc/passwd that leads to the machine's, or that would block, gives no user.
func TestUserLookupStaysInside(t *testing.T) {
	outside := program(t, "passwd", "evil:x:7:7::/:/bin/sh\n", 0o644)
	for name, target := range map[string]string{"absolute": outside, "relative": strings.Repeat("../", 40) + outside[1:]} {
		i := &image.Image{ID: name, Layers: []string{t.TempDir()}}
		if err := os.Mkdir(filepath.Join(i.Layers[0], "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(i.Layers[0], "etc/passwd")); err != nil {
			t.Fatal(err)
		}
		if uid, _, _, _, err := i.LookupUser("evil"); err == nil {
			t.Errorf("%s: user %d", name, uid)
		}
		if uid, _, _, _, err := i.LookupUser("12"); err != nil || uid != 12 {
			t.Errorf("%s: %d, %v", name, uid, err)
		}
	}
	pipe := &image.Image{ID: "pipe", Layers: []string{t.TempDir()}}
	if err := os.Mkdir(filepath.Join(pipe.Layers[0], "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(pipe.Layers[0], "etc/passwd"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, _, _, err := pipe.LookupUser("0"); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
}
