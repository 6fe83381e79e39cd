package local

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"svcproxy/proxier"
)

// Manifests are the objects that make up what a cluster runs. They have their apiVersion and kind set, and a
// namespace.
type Manifests struct {
	Pods       []*corev1.Pod
	Services   []*corev1.Service
	ConfigMaps []*corev1.ConfigMap
	Secrets    []*corev1.Secret
	// EndpointSlices are those of Services without a selector.
	EndpointSlices []*discoveryv1.EndpointSlice
	// Namespaces are those that were named. An object may be in any other.
	Namespaces []*corev1.Namespace
}

// Stdin is the path that stands for standard input.
const Stdin = "-"

// Load reads manifest files and folders as kubectl would send them to an API server: YAML or JSON, several
// documents, Lists. Of a folder it reads the files directly inside that end in .yaml, .yml or .json and are not
// hidden, in the order of their names. Defaults are filled in, and the server's own fields, such as status
// and uid, are dropped, the status of Services apart, where load balancers put their addresses. Pods, Services,
// ConfigMaps, Secrets, EndpointSlices and Namespaces are read.
//
// Everything wrong is an error, naming file, document, object and field: a field that is unknown, one of a pod
// that the sandbox does not honour, a value that the API server would refuse, an object of another kind, one
// that is there twice. All that is wrong is reported at once.
func Load(paths []string) (*Manifests, error) {
	r := newReader()
	for _, path := range paths {
		if path == Stdin {
			data, err := io.ReadAll(os.Stdin)
			r.read("standard input", data, err)
			continue
		}
		files, err := proxier.ManifestFiles(path)
		if err != nil {
			r.errs = append(r.errs, err)
			continue
		}
		if len(files) == 0 {
			r.errs = append(r.errs, fmt.Errorf("%s: no .yaml, .yml or .json file is in this folder", path))
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			r.read(file, data, err)
		}
	}
	return r.result()
}

// Parse reads the content of one manifest file as Load does; name is for messages.
func Parse(name string, data []byte) (*Manifests, error) {
	r := newReader()
	r.read(name, data, nil)
	return r.result()
}

func (r *reader) result() (*Manifests, error) {
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	return r.manifests, nil
}

// Objects lists all objects, by kind and then in order: what others refer to comes first.
func (m *Manifests) Objects() []metav1.Object {
	var all []metav1.Object
	add := func(o metav1.Object) { all = append(all, o) }
	for _, o := range m.Namespaces {
		add(o)
	}
	for _, o := range m.ConfigMaps {
		add(o)
	}
	for _, o := range m.Secrets {
		add(o)
	}
	for _, o := range m.Services {
		add(o)
	}
	for _, o := range m.EndpointSlices {
		add(o)
	}
	for _, o := range m.Pods {
		add(o)
	}
	return all
}

// YAML writes all objects as documents of one manifest file, which Parse reads again.
func (m *Manifests) YAML() ([]byte, error) { return writeYAML(m.Objects()) }

func writeYAML(objects []metav1.Object) ([]byte, error) {
	var out []byte
	for i, o := range objects {
		text, err := yaml.Marshal(o)
		if err != nil {
			return nil, fmt.Errorf("%s/%s: %w", o.GetNamespace(), o.GetName(), err)
		}
		if i > 0 {
			out = append(out, "---\n"...)
		}
		out = append(out, text...)
	}
	return out, nil
}

// sortByName puts objects into the order of their namespaces and names.
func sortByName[T metav1.Object](all []T) []T {
	slices.SortFunc(all, func(a, b T) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return all
}
