package local

import (
	"errors"
	"fmt"
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"svcproxy/proxier"
)

// label and subdomain say why a name is not one that the API takes.
func label(name string) []string     { return validation.IsDNS1123Label(name) }
func subdomain(name string) []string { return validation.IsDNS1123Subdomain(name) }

// serviceLabel is what the API server asks of a Service's name.
func serviceLabel(name string) []string { return validation.IsDNS1035Label(name) }

// quoted is a text from a manifest for messages: it may hold anything.
func quoted(text string) string {
	if len(text) > 64 {
		text = text[:64] + "…"
	}
	return strconv.Quote(text)
}

// unmarshal decodes strictly, and drops from the metadata what is the API server's to say.
func unmarshal(doc []byte, o any, meta *metav1.ObjectMeta) error {
	odd, err := kjson.UnmarshalStrict(doc, o)
	if err := errors.Join(append(odd, err)...); err != nil {
		return fieldErrors(err)
	}
	return listError(dropServerFields(meta))
}

// listError keeps an aggregate that is nil from becoming an error that is not.
func listError(all field.ErrorList) error {
	if len(all) == 0 {
		return nil
	}
	return all.ToAggregate()
}

// fieldErrors puts several errors into one line.
func fieldErrors(err error) error {
	var many interface{ Unwrap() []error }
	if !errors.As(err, &many) {
		return err
	}
	var joined error
	for _, e := range many.Unwrap() {
		if joined == nil {
			joined = e
		} else {
			joined = fmt.Errorf("%w; %w", joined, e)
		}
	}
	return joined
}

// dropServerFields drops what the API server says of an object, and refuses what can't be dropped.
func dropServerFields(m *metav1.ObjectMeta) field.ErrorList {
	var all field.ErrorList
	path := field.NewPath("metadata")
	if m.DeletionTimestamp != nil {
		all = append(all, field.Forbidden(path.Child("deletionTimestamp"), "the object is being deleted"))
	}
	if len(m.Finalizers) > 0 {
		all = append(all, field.Forbidden(path.Child("finalizers"), "there is nobody who would remove them"))
	}
	*m = metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, Labels: m.Labels, Annotations: m.Annotations}
	if len(m.Labels) == 0 {
		m.Labels = nil
	}
	if len(m.Annotations) == 0 {
		m.Annotations = nil
	}
	return all
}

// checkMeta checks what every object has.
func checkMeta(m *metav1.ObjectMeta, name func(string) []string) field.ErrorList {
	path := field.NewPath("metadata")
	var all field.ErrorList
	if m.Name == "" {
		all = append(all, field.Required(path.Child("name"), ""))
	} else {
		for _, wrong := range name(m.Name) {
			all = append(all, field.Invalid(path.Child("name"), m.Name, wrong))
		}
	}
	if m.Namespace != "" {
		for _, wrong := range label(m.Namespace) {
			all = append(all, field.Invalid(path.Child("namespace"), m.Namespace, wrong))
		}
	}
	all = append(all, metavalidation.ValidateLabels(m.Labels, path.Child("labels"))...)
	for key := range m.Annotations {
		for _, wrong := range validation.IsQualifiedName(key) {
			all = append(all, field.Invalid(path.Child("annotations"), key, wrong))
		}
	}
	return all
}

func defaultMeta(m *metav1.ObjectMeta) {
	if m.Namespace == "" {
		m.Namespace = metav1.NamespaceDefault
	}
}

// finishNamespace checks a Namespace, of which the name is all that counts.
func finishNamespace(o *corev1.Namespace) error {
	o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}
	o.Namespace, o.Spec, o.Status = "", corev1.NamespaceSpec{}, corev1.NamespaceStatus{}
	return listError(checkMeta(&o.ObjectMeta, label))
}

// finishConfigMap fills in defaults and checks a ConfigMap.
func finishConfigMap(o *corev1.ConfigMap) error {
	o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
	defaultMeta(&o.ObjectMeta)
	all := checkMeta(&o.ObjectMeta, subdomain)
	size := 0
	for key, v := range o.Data {
		size += len(v)
		all = append(all, checkKey(field.NewPath("data").Key(key), key)...)
	}
	for key, v := range o.BinaryData {
		size += len(v)
		all = append(all, checkKey(field.NewPath("binaryData").Key(key), key)...)
		if _, twice := o.Data[key]; twice {
			all = append(all, field.Invalid(field.NewPath("binaryData").Key(key), key, "is also in data"))
		}
	}
	return listError(append(all, checkSize(size)...))
}

// finishSecret fills in defaults and checks a Secret.
func finishSecret(o *corev1.Secret) error {
	o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}
	defaultMeta(&o.ObjectMeta)
	if o.Type == "" {
		o.Type = corev1.SecretTypeOpaque
	}
	if len(o.StringData) > 0 {
		data := maps.Clone(o.Data)
		if data == nil {
			data = map[string][]byte{}
		}
		for key, v := range o.StringData {
			data[key] = []byte(v)
		}
		o.Data, o.StringData = data, nil
	}
	all := checkMeta(&o.ObjectMeta, subdomain)
	size := 0
	for key, v := range o.Data {
		size += len(v)
		all = append(all, checkKey(field.NewPath("data").Key(key), key)...)
	}
	return listError(append(all, checkSize(size)...))
}

func checkKey(path *field.Path, key string) field.ErrorList {
	var all field.ErrorList
	for _, wrong := range validation.IsConfigMapKey(key) {
		all = append(all, field.Invalid(path, key, wrong))
	}
	return all
}

// maxData is the API's limit of what a ConfigMap or Secret holds.
const maxData = 1 << 20

func checkSize(size int) field.ErrorList {
	if size <= maxData {
		return nil
	}
	return field.ErrorList{field.TooLong(field.NewPath("data"), "", maxData)}
}

// finishSlice fills in defaults and checks an EndpointSlice.
func finishSlice(o *discoveryv1.EndpointSlice) error {
	o.TypeMeta = metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}
	proxier.DefaultSlice(o)
	all := checkMeta(&o.ObjectMeta, subdomain)
	if o.Labels[discoveryv1.LabelServiceName] == "" {
		all = append(all, field.Required(field.NewPath("metadata", "labels").Key(discoveryv1.LabelServiceName), "the Service that the slice is of"))
	}
	switch o.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
	default:
		all = append(all, field.NotSupported(field.NewPath("addressType"), o.AddressType, []string{"IPv4", "IPv6"}))
	}
	if err := listError(all); err != nil {
		return err
	}
	_, _, err := proxier.ConvertSlice(o)
	return errors.Unwrap(err) // which leaves out the object's name, as the caller says it
}
