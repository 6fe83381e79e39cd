package proxier

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"svcproxy/model"
	"svcproxy/test/nstest"
)

func webAt(name, ip string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {clusterIP: %s, ports: [{port: 80}]}\n", name, ip)
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// addresses returns "name ip" of each Service.
func addresses(o *Objects) []string {
	var all []string
	for name, s := range o.Services {
		all = append(all, name.Name+" "+s.ClusterIPs[0].String())
	}
	slices.Sort(all)
	return all
}

func TestLoadManifestsReadsFilesFoldersAndLists(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/b.yaml", "# only a comment\n---\n"+webAt("one", "10.0.0.1")+"---\n"+webAt("two", "10.0.0.2"))
	write(t, dir+"/a.json", `{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Service","metadata":{"name":"three"},"spec":{"clusterIP":"10.0.0.3","ports":[{"port":80}]}},{"apiVersion":"v1","kind":"Pod"}]}`)
	write(t, dir+"/c.yml", `
apiVersion: discovery.k8s.io/v1
kind: EndpointSliceList
items:
- {metadata: {name: one-1, labels: {kubernetes.io/service-name: one}}, addressType: IPv4, ports: [{port: 8080}], endpoints: [{addresses: [10.244.0.1]}]}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDRs: [10.244.0.0/24]}}
---
{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: kubernetes}, spec: {cidrs: [10.0.0.0/16]}}
---
{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: not-ours}}`)
	write(t, dir+"/notes.txt", "not: [yaml")
	write(t, dir+"/.hidden.yaml", "not: [yaml")
	o, errs := LoadManifests([]string{dir})
	if len(errs) > 0 || len(o.Warnings) > 0 {
		t.Fatalf("%v, %v", errs, o.Warnings)
	}
	expect(t, "Services", addresses(o), []string{"one 10.0.0.1", "three 10.0.0.3", "two 10.0.0.2"})
	if len(o.Slices) != 1 || len(o.Nodes) != 1 || len(o.ServiceCIDRs) != 1 {
		t.Errorf("got %+v", o)
	}
	p := o.Plan(model.IPv4, Settings{}, "node")
	if got := p.Services[named("one")].Ports[0].Endpoints; len(got) != 1 || len(p.Config.ServiceCIDRs) != 1 {
		t.Errorf("planned %+v", p)
	}
}

func TestOneBadDocumentNamesFileDocumentAndFieldAndStopsNothing(t *testing.T) {
	dir := t.TempDir()
	file := dir + "/web.yaml"
	write(t, file, webAt("one", "10.0.0.1")+"---\n"+webAt("bad", "10.0.0")+"---\nkind: [\n---\n"+
		"apiVersion: v1\nkind: Service\nmetadata: {name: typed}\nspec: {ports: [{port: http}]}\n---\n"+webAt("two", "10.0.0.2"))
	o, errs := LoadManifests([]string{file})
	expect(t, "Services", addresses(o), []string{"one 10.0.0.1", "two 10.0.0.2"})
	text := errors.Join(errs...).Error()
	for _, want := range []string{
		file + ", document 2: Service default/bad: spec.clusterIP: 10.0.0 is not an IP address",
		file + ", document 3: ",
		file + ", document 4: Service default/typed: ",
		"spec.ports",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}

func TestUnknownFieldsAreWarnings(t *testing.T) {
	file := t.TempDir() + "/web.yaml"
	write(t, file, strings.Replace(webAt("one", "10.0.0.1"), "clusterIP", "colour: red, clusterIP", 1))
	o, errs := LoadManifests([]string{file})
	if len(errs) > 0 || len(o.Services) != 1 || len(o.Warnings) != 1 || !strings.Contains(o.Warnings[0], `unknown field "spec.colour"`) {
		t.Errorf("got %v, %q", errs, o.Warnings)
	}
}

func TestTheFirstOfTwoDefinitionsCounts(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.yaml", webAt("one", "10.0.0.1"))
	write(t, dir+"/b.yaml", webAt("one", "10.0.0.2"))
	o, errs := LoadManifests([]string{dir})
	expect(t, "Services", addresses(o), []string{"one 10.0.0.1"})
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "a.yaml") || !strings.Contains(errs[0].Error(), "b.yaml") {
		t.Errorf("got %v", errs)
	}
}

func TestAMissingPathIsAnError(t *testing.T) {
	if _, errs := LoadManifests([]string{t.TempDir() + "/none.yaml"}); len(errs) != 1 || !errors.Is(errs[0], os.ErrNotExist) {
		t.Errorf("got %v", errs)
	}
}

// following is a ManifestSource at work on a Store.
type following struct{ *Store }

func follow(t *testing.T, paths ...string) following {
	t.Helper()
	f := following{NewStore("")}
	source := NewManifestSource(paths, zap.NewNop())
	source.files.settle, source.files.poll = 5*time.Millisecond, time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- source.Run(ctx, f) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
	<-f.WaitSynced()
	return f
}

func (f following) becomes(t *testing.T, want ...string) {
	t.Helper()
	nstest.Eventually(t, 10*time.Second, func() error {
		f.mu.Lock()
		got := addresses(&Objects{Services: maps.Clone(f.services)})
		f.mu.Unlock()
		if !slices.Equal(got, want) {
			return fmt.Errorf("the store has %v, want %v", got, want)
		}
		return nil
	})
}

func TestManifestsAreFollowed(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
	write(t, a, webAt("one", "10.0.0.1"))
	f := follow(t, dir)
	f.becomes(t, "one 10.0.0.1")

	write(t, b, webAt("two", "10.0.0.2"))
	f.becomes(t, "one 10.0.0.1", "two 10.0.0.2")

	write(t, dir+"/.a.swp", webAt("one", "10.0.0.9")) // as an editor replaces a file
	if err := os.Rename(dir+"/.a.swp", a); err != nil {
		t.Fatal(err)
	}
	f.becomes(t, "one 10.0.0.9", "two 10.0.0.2")

	if err := os.Remove(b); err != nil {
		t.Fatal(err)
	}
	f.becomes(t, "one 10.0.0.9")
}

func TestTheLastGoodVersionOfABrokenObjectStays(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.yaml", webAt("one", "10.0.0.1")+"---\n"+webAt("two", "10.0.0.2"))
	f := follow(t, dir)
	f.becomes(t, "one 10.0.0.1", "two 10.0.0.2")

	write(t, dir+"/a.yaml", webAt("one", "nonsense")+"---\n"+webAt("two", "10.0.0.3"))
	f.becomes(t, "one 10.0.0.1", "two 10.0.0.3")

	write(t, dir+"/a.yaml", "what: [is this\n---\n"+webAt("two", "10.0.0.4"))
	f.becomes(t, "one 10.0.0.1", "two 10.0.0.4")

	write(t, dir+"/a.yaml", webAt("two", "10.0.0.5"))
	f.becomes(t, "two 10.0.0.5")
}

// Wherever a file ends that is being written, what is not there any more may be what is there in part.
func TestAHalfWrittenFileRemovesNothing(t *testing.T) {
	text := "kind: Service\napiVersion: v1\nmetadata:\n  name: web\n  namespace: default\nspec:\n  clusterIP: 10.0.0.1\n  ports:\n  - port: 80\n"
	other := "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n"
	dir := t.TempDir()
	for _, full := range []string{text, other + text[len("kind: Service\napiVersion: v1\nmetadata:\n  name: web\n"):]} {
		for end := 1; end < len(full); end++ {
			set := newManifestSet()
			write(t, dir+"/a.yaml", full)
			set.load([]string{dir})
			write(t, dir+"/a.yaml", full[:end])
			if o, errs := set.load([]string{dir}); len(o.Services) != 1 || o.Services[named("web")] == nil {
				t.Errorf("%q: left %v, errors %v", full[:end], addresses(o), errs)
			}
		}
	}
}

func TestABrokenNewObjectIsNoObstacleForRemovingAnother(t *testing.T) {
	dir := t.TempDir()
	set := newManifestSet()
	for _, text := range []string{webAt("one", "10.0.0.1") + "---\n" + webAt("two", "nonsense"), webAt("two", "nonsense")} {
		write(t, dir+"/a.yaml", text)
		set.load([]string{dir})
	}
	if o, _ := set.load([]string{dir}); len(o.Services) != 0 {
		t.Errorf("left %v, though the document that held it is gone and no other came", addresses(o))
	}
}

func TestAPipeIsReadOnceAndNeverFollowed(t *testing.T) {
	pipe := t.TempDir() + "/pipe.yaml"
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	follow(t, pipe).becomes(t)
	written := make(chan error)
	go func() { written <- os.WriteFile(pipe, []byte(webAt("one", "10.0.0.1")), 0) }()
	o, errs := LoadManifests([]string{pipe})
	if err := <-written; err != nil || len(errs) > 0 {
		t.Fatal(err, errs)
	}
	expect(t, "Services", addresses(o), []string{"one 10.0.0.1"})
}

func TestConfigMapSwapsAreFollowed(t *testing.T) {
	dir := t.TempDir()
	swap := func(version, ip string) {
		if err := os.Mkdir(dir+"/.."+version, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, dir+"/.."+version+"/web.yaml", webAt("one", ip))
		if err := errors.Join(os.Symlink(".."+version, dir+"/..data_tmp"), os.Rename(dir+"/..data_tmp", dir+"/..data")); err != nil {
			t.Fatal(err)
		}
	}
	swap("v1", "10.0.0.1")
	if err := os.Symlink("..data/web.yaml", dir+"/web.yaml"); err != nil {
		t.Fatal(err)
	}
	folder, file := follow(t, dir), follow(t, dir+"/web.yaml")
	folder.becomes(t, "one 10.0.0.1")
	file.becomes(t, "one 10.0.0.1")
	swap("v2", "10.0.0.2")
	folder.becomes(t, "one 10.0.0.2")
	file.becomes(t, "one 10.0.0.2")
}

func TestAFolderMayComeLater(t *testing.T) {
	dir := t.TempDir()
	f := follow(t, dir+"/later/manifests")
	f.becomes(t)
	if err := os.MkdirAll(dir+"/later/manifests", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/later/manifests/a.yaml", webAt("one", "10.0.0.1"))
	f.becomes(t, "one 10.0.0.1")
}
