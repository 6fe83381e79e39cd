package hostile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"svcproxy/model"
	"svcproxy/proxier"
	"svcproxy/test/dataplane"
	"svcproxy/test/nstest"
)

// TestManifests has hostile documents and healthy ones in the same files, while a proxy follows the files.
func TestManifests(t *testing.T) {
	for _, c := range []struct {
		dataplane.Plane
		documents int
	}{
		{dataplane.NFTables, nstest.Sized(300, 3000)},
		{dataplane.IPTablesLegacy, nstest.Sized(100, 500)},
	} {
		t.Run(c.Name, func(t *testing.T) {
			g := newGenerator(seed(t))
			g.few = true
			folder := &folder{t: t, dir: t.TempDir(), generator: g}
			folder.writeFiles(c.documents)
			objects, errs := proxier.LoadManifests([]string{folder.dir})
			t.Logf("%d documents: %d Services and %d slices are served, %d errors, %d warnings",
				c.documents, len(objects.Services), len(objects.Slices), len(errs), len(objects.Warnings))

			w := newCluster(t)
			p := startProxy(t, w, c.Plane, proxier.NewManifestSource([]string{folder.dir}, zap.NewNop()))
			p.waitFor(t, objects)
			p.check(t, objects)
			p.checkHealthy(t)
			p.checkTools(t)

			// Documents change while the proxy runs: what was good may break, and stays then.
			folder.writeFiles(c.documents)
			folder.mark()
			p.waitForService(t, marker)
			p.checkHealthy(t)

			folder.removeHostile()
			objects, errs = proxier.LoadManifests([]string{folder.dir})
			if len(errs) > 0 {
				t.Errorf("healthy manifests: %v", errs)
			}
			p.waitFor(t, objects)
			p.check(t, objects)
			p.checkHealthy(t)
			p.checkFaultless(t)
		})
	}
}

// files is how many files the documents are spread over.
const files = 10

// marker is a Service that comes last.
var marker = model.ServiceName{Namespace: hostileNamespace, Name: "marker"}

// folder is a folder of manifests.
type folder struct {
	t         *testing.T
	dir       string
	generator *generator
}

// writeFiles spreads so many new documents over the files, with the healthy ones among them.
func (f *folder) writeFiles(documents int) {
	f.t.Helper()
	contents := make([][][]byte, files)
	put := func(doc []byte) {
		i := f.generator.random.IntN(files)
		contents[i] = append(contents[i], doc)
	}
	for range documents / 2 {
		put(f.generator.rawDocument())
	}
	for _, doc := range f.healthy() {
		put(doc)
	}
	for range documents / 2 {
		put(f.generator.rawDocument())
	}
	for i, docs := range contents {
		f.write(fmt.Sprintf("%d.yaml", i), docs...)
	}
}

// healthy returns the healthy documents.
func (f *folder) healthy() (docs [][]byte) {
	f.t.Helper()
	for _, o := range healthy() {
		doc, err := document(o)
		if err != nil {
			f.t.Fatal(err)
		}
		docs = append(docs, doc)
	}
	return docs
}

// write replaces a file in one step, so that nobody reads half of it.
func (f *folder) write(name string, documents ...[]byte) {
	f.t.Helper()
	hidden := filepath.Join(f.dir, "."+name)
	if err := os.WriteFile(hidden, bytes.Join(documents, []byte("\n---\n")), 0o644); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(hidden, filepath.Join(f.dir, name)); err != nil {
		f.t.Fatal(err)
	}
}

// mark adds the marker.
func (f *folder) mark() {
	f.t.Helper()
	doc, err := document(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: marker.Namespace, Name: marker.Name},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.40.1", Ports: []corev1.ServicePort{{Port: 80}}},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("marker.yaml", doc)
}

// removeHostile leaves nothing but the healthy documents.
func (f *folder) removeHostile() {
	f.t.Helper()
	f.write("0.yaml", f.healthy()...)
	for i := 1; i < files; i++ {
		f.write(fmt.Sprintf("%d.yaml", i))
	}
	if err := os.Remove(filepath.Join(f.dir, "marker.yaml")); err != nil {
		f.t.Fatal(err)
	}
}

// waitForService waits until a Service is acknowledged.
func (p *proxy) waitForService(t *testing.T, name model.ServiceName) {
	t.Helper()
	for f, b := range p.backends {
		nstest.Eventually(t, time.Minute, func() error {
			if b.service(name) == nil {
				return fmt.Errorf("%s: %s is not programmed", f, name)
			}
			return nil
		})
	}
}
