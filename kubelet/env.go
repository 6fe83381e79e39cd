package kubelet

import (
	"fmt"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// environment makes a container's variables in kubelet's order: Services, envFrom, env, where a later one of the
// same name replaces the earlier. Values of env may use $(NAME) of those before them.
func (s *source) environment(c *v1.Container) ([]string, error) {
	values := map[string]string{}
	var order []string
	set := func(name, value string) {
		if _, ok := values[name]; !ok {
			order = append(order, name)
		}
		values[name] = value
	}
	for name, value := range s.serviceLinks() {
		set(name, value)
	}
	if err := s.envFrom(c, set); err != nil {
		return nil, err
	}
	for i := range c.Env {
		value, ok, err := s.envValue(c, &c.Env[i], values)
		if err != nil {
			return nil, fmt.Errorf("env %s: %w", c.Env[i].Name, err)
		}
		if ok {
			set(c.Env[i].Name, value)
		}
	}
	out := make([]string, 0, len(order))
	for _, name := range order {
		out = append(out, name+"="+values[name])
	}
	return out, nil
}

// envFrom takes whole config maps and secrets.
func (s *source) envFrom(c *v1.Container, set func(name, value string)) error {
	for _, from := range c.EnvFrom {
		switch {
		case from.ConfigMapRef != nil:
			m, ok := s.configMap(from.ConfigMapRef.Name)
			if !ok {
				if isTrue(from.ConfigMapRef.Optional) {
					continue
				}
				return fmt.Errorf("envFrom: configmap %q not found", from.ConfigMapRef.Name)
			}
			for _, key := range sortedKeys(m.Data) {
				set(from.Prefix+key, m.Data[key])
			}
		case from.SecretRef != nil:
			m, ok := s.secret(from.SecretRef.Name)
			if !ok {
				if isTrue(from.SecretRef.Optional) {
					continue
				}
				return fmt.Errorf("envFrom: secret %q not found", from.SecretRef.Name)
			}
			for _, key := range sortedKeys(m.Data) {
				set(from.Prefix+key, string(m.Data[key]))
			}
		}
	}
	return nil
}

// envValue is one variable's value; ok is false for an optional one that is not there.
func (s *source) envValue(c *v1.Container, e *v1.EnvVar, known map[string]string) (value string, ok bool, err error) {
	from := e.ValueFrom
	switch {
	case from == nil:
		return expand(e.Value, func(name string) (string, bool) { v, ok := known[name]; return v, ok }), true, nil
	case from.FieldRef != nil:
		value, err = s.field(from.FieldRef.FieldPath)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		value, err = s.resourceField(from.ResourceFieldRef, c)
		return value, err == nil, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		m, found := s.configMap(ref.Name)
		if found {
			if value, ok = m.Data[ref.Key]; ok {
				return value, true, nil
			}
		}
		return "", false, missing("configmap", ref.Name, ref.Key, found, ref.Optional)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		m, found := s.secret(ref.Name)
		if found {
			if data, ok := m.Data[ref.Key]; ok {
				return string(data), true, nil
			}
		}
		return "", false, missing("secret", ref.Name, ref.Key, found, ref.Optional)
	}
	return "", false, fmt.Errorf("valueFrom: no source that is supported")
}

func missing(kind, name, key string, found bool, optional *bool) error {
	switch {
	case isTrue(optional):
		return nil
	case found:
		return fmt.Errorf("couldn't find key %s in %s %s", key, kind, name)
	}
	return fmt.Errorf("%s %q not found", kind, name)
}

// expand replaces $(NAME) as Kubernetes does: $$ is a dollar, and a reference to nothing known stays as it is.
func expand(in string, lookup func(string) (string, bool)) string {
	var out strings.Builder
	for i := 0; i < len(in); i++ {
		if in[i] != '$' || i+1 == len(in) {
			out.WriteByte(in[i])
			continue
		}
		i++
		switch in[i] {
		case '$':
			out.WriteByte('$')
		case '(':
			end := strings.IndexByte(in[i:], ')')
			if end < 0 {
				out.WriteString("$(")
				continue
			}
			name := in[i+1 : i+end]
			if value, ok := lookup(name); ok {
				out.WriteString(value)
			} else {
				out.WriteString("$(" + name + ")")
			}
			i += end
		default:
			out.WriteByte('$')
			out.WriteByte(in[i])
		}
	}
	return out.String()
}

// field is the value of a downward API field path.
func (s *source) field(path string) (string, error) {
	if name, key, ok := subscript(path); ok {
		switch name {
		case "metadata.labels":
			return s.pod.Labels[key], nil
		case "metadata.annotations":
			return s.pod.Annotations[key], nil
		}
		return "", fmt.Errorf("fieldPath %q is not supported", path)
	}
	switch path {
	case "metadata.name":
		return s.pod.Name, nil
	case "metadata.namespace":
		return s.pod.Namespace, nil
	case "metadata.uid":
		return string(s.pod.UID), nil
	case "metadata.labels":
		return formatMap(s.pod.Labels), nil
	case "metadata.annotations":
		return formatMap(s.pod.Annotations), nil
	case "spec.nodeName":
		return s.nodeName, nil
	case "spec.serviceAccountName":
		return serviceAccount(s.pod), nil
	case "status.hostIP":
		return first(s.hostIPs), nil
	case "status.hostIPs":
		return strings.Join(s.hostIPs, ","), nil
	case "status.podIP":
		return first(s.podIPs), nil
	case "status.podIPs":
		return strings.Join(s.podIPs, ","), nil
	}
	return "", fmt.Errorf("fieldPath %q is not supported", path)
}

// subscript splits metadata.labels['key'].
func subscript(path string) (name, key string, ok bool) {
	name, rest, found := strings.Cut(path, "['")
	key, closed := strings.CutSuffix(rest, "']")
	return name, key, found && closed
}

// formatMap writes labels as the downward API does: key="value", sorted, one a line.
func formatMap(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for _, key := range sortedKeys(m) {
		lines = append(lines, key+"="+strconv.Quote(m[key]))
	}
	return strings.Join(lines, "\n")
}

// resourceField is a request or limit of a container, in units of the divisor, rounded up. A limit that is not set
// is the machine's whole.
func (s *source) resourceField(ref *v1.ResourceFieldSelector, own *v1.Container) (string, error) {
	c := own
	if ref.ContainerName != "" {
		if c = containerOf(s.pod, ref.ContainerName); c == nil {
			return "", fmt.Errorf("resourceFieldRef: container %q not found", ref.ContainerName)
		}
	}
	if c == nil {
		return "", fmt.Errorf("resourceFieldRef: containerName is required in a volume")
	}
	kind, name, _ := strings.Cut(ref.Resource, ".")
	list := c.Resources.Requests
	if kind == "limits" {
		list = c.Resources.Limits
	}
	value, ok := list[v1.ResourceName(name)]
	if !ok && kind == "limits" {
		value = s.capacity[v1.ResourceName(name)]
	}
	if !ok && kind == "requests" {
		value = c.Resources.Limits[v1.ResourceName(name)]
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	switch {
	case kind != "limits" && kind != "requests":
	case name == "cpu":
		return strconv.FormatInt(ceilDiv(value.MilliValue(), divisor.MilliValue()), 10), nil
	case name == "memory" || name == "ephemeral-storage":
		return strconv.FormatInt(ceilDiv(value.Value(), divisor.Value()), 10), nil
	}
	return "", fmt.Errorf("resourceFieldRef: resource %q is not supported", ref.Resource)
}

func ceilDiv(a, b int64) int64 {
	if b <= 0 {
		b = 1
	}
	return (a + b - 1) / b
}
