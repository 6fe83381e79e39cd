package clusterdns

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"

	"svcproxy/model"
	"svcproxy/proxier"
)

// Manifests are the objects of manifest files: Services, EndpointSlices and Namespaces; others are passed over.
type Manifests struct {
	paths []string
	log   *zap.Logger
}

// NewManifests returns a source of files and folders, read as proxier.LoadManifests finds them.
func NewManifests(paths []string, log *zap.Logger) *Manifests {
	return &Manifests{paths: paths, log: log}
}

// Run follows the files. While something is wrong with one of them, which is logged, the last good state of all of them
// stays.
func (m *Manifests) Run(ctx context.Context, changed func(Changes)) error {
	sent, reported, first := NewChanges(), "", true
	return proxier.NewFileWatch(m.paths, m.log).Run(ctx, func() {
		now, err := LoadManifests(m.paths)
		if err != nil {
			if reported != err.Error() {
				reported = err.Error()
				m.log.Error("manifests: the last good state stays", zap.Error(err))
			}
			return
		}
		reported = ""
		if c, some := difference(sent, now); some || first {
			first = false
			changed(c)
		}
		sent = now
	})
}

// LoadManifests reads files and folders once. The error names the file, the document, the object and the field.
func LoadManifests(paths []string) (Changes, error) {
	all := NewChanges()
	for _, path := range paths {
		files, err := proxier.ManifestFiles(path)
		if err != nil {
			return all, err
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				return all, err
			}
			for i, doc := range proxier.Documents(data) {
				err := doc.Err
				if err == nil {
					err = all.add(doc.JSON)
				}
				if err != nil {
					return all, fmt.Errorf("%s, document %d: %w", file, i+1, err)
				}
			}
		}
	}
	return all, nil
}

// list is what Lists are read as.
type list struct {
	metav1.TypeMeta `json:",inline"`
	Items           []json.RawMessage `json:"items"`
}

// add reads one object or a list of some.
func (c *Changes) add(doc []byte) error {
	var l list
	if len(doc) == 0 || string(doc) == "null" {
		return nil
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(doc, &l); err != nil {
		return err
	}
	switch l.APIVersion + " " + l.Kind {
	case "v1 List":
		for i, item := range l.Items {
			if err := c.add(item); err != nil {
				return fmt.Errorf("items[%d]: %w", i, err)
			}
		}
	case "v1 Service":
		s := &corev1.Service{}
		if err := decode(doc, s, "Service"); err != nil {
			return err
		}
		proxier.DefaultService(s)
		c.Services[model.ServiceName{Namespace: s.Namespace, Name: s.Name}] = s
		c.Namespaces[s.Namespace] = true
	case "discovery.k8s.io/v1 EndpointSlice":
		s := &discoveryv1.EndpointSlice{}
		if err := decode(doc, s, "EndpointSlice"); err != nil {
			return err
		}
		proxier.DefaultSlice(s)
		c.Slices[model.SliceName{Namespace: s.Namespace, Name: s.Name}] = s
	case "v1 Namespace":
		n := &corev1.Namespace{}
		if err := decode(doc, n, "Namespace"); err != nil {
			return err
		}
		c.Namespaces[n.Name] = true
	}
	return nil
}

func decode(doc []byte, o metav1.Object, kind string) error {
	if err := kjson.UnmarshalCaseSensitivePreserveInts(doc, o); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	if o.GetName() == "" {
		return fmt.Errorf("%s: metadata.name: missing", kind)
	}
	if o.GetNamespace() == "" {
		o.SetNamespace(metav1.NamespaceDefault)
	}
	return nil
}

// difference leads from one state to another.
func difference(from, to Changes) (c Changes, some bool) {
	c = NewChanges()
	c.Services = changed(from.Services, to.Services)
	c.Slices = changed(from.Slices, to.Slices)
	for name := range to.Namespaces {
		if !from.Namespaces[name] {
			c.Namespaces[name] = true
		}
	}
	for name := range from.Namespaces {
		if !to.Namespaces[name] {
			c.Namespaces[name] = false
		}
	}
	return c, len(c.Services)+len(c.Slices)+len(c.Namespaces) > 0
}

func changed[K comparable, V any](from, to map[K]*V) map[K]*V {
	c := map[K]*V{}
	for name, v := range to {
		if old := from[name]; old == nil || !reflect.DeepEqual(old, v) {
			c[name] = v
		}
	}
	for name := range from {
		if to[name] == nil {
			c[name] = nil
		}
	}
	return c
}
