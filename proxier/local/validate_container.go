package local

import (
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func (c *checks) container(one *corev1.Container, at *field.Path, initial bool) {
	c.required(at.Child("name"), one.Name)
	c.valid(at.Child("name"), one.Name, label)
	c.required(at.Child("image"), one.Image)
	if one.Image != strings.TrimSpace(one.Image) {
		c.add(field.Invalid(at.Child("image"), one.Image, "must not have leading or trailing whitespace"))
	}
	oneOf(c, at.Child("imagePullPolicy"), one.ImagePullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	if one.WorkingDir != "" && !path.IsAbs(one.WorkingDir) {
		c.add(field.Invalid(at.Child("workingDir"), one.WorkingDir, "must be an absolute path"))
	}
	for i := range one.Ports {
		c.containerPort(&one.Ports[i], one, i, at.Child("ports").Index(i))
	}
	for i := range one.Env {
		c.env(&one.Env[i], at.Child("env").Index(i))
	}
	for i := range one.EnvFrom {
		c.envFrom(&one.EnvFrom[i], at.Child("envFrom").Index(i))
	}
	c.resources(&one.Resources, at.Child("resources"))
	c.mounts(one.VolumeMounts, at.Child("volumeMounts"))
	c.probes(one, at, initial)
	if !path.IsAbs(one.TerminationMessagePath) {
		c.add(field.Invalid(at.Child("terminationMessagePath"), one.TerminationMessagePath, "must be an absolute path"))
	}
	oneOf(c, at.Child("terminationMessagePolicy"), one.TerminationMessagePolicy, corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	if one.SecurityContext != nil {
		c.security(one.SecurityContext, at.Child("securityContext"))
	}
}

func (c *checks) containerPort(p *corev1.ContainerPort, one *corev1.Container, i int, at *field.Path) {
	c.valid(at.Child("name"), p.Name, validation.IsValidPortName)
	if p.Name != "" && slices.ContainsFunc(one.Ports[:i], func(q corev1.ContainerPort) bool { return q.Name == p.Name }) {
		c.add(field.Duplicate(at.Child("name"), p.Name))
	}
	c.portNumber(at.Child("containerPort"), p.ContainerPort)
	oneOf(c, at.Child("protocol"), p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
}

func (c *checks) portNumber(at *field.Path, n int32) {
	for _, wrong := range validation.IsValidPortNum(int(n)) {
		c.add(field.Invalid(at, n, wrong))
	}
}

func (c *checks) env(e *corev1.EnvVar, at *field.Path) {
	c.required(at.Child("name"), e.Name)
	c.valid(at.Child("name"), e.Name, validation.IsRelaxedEnvVarName)
	c.noNUL(at.Child("value"), e.Value)
	from := e.ValueFrom
	if from == nil {
		return
	}
	at = at.Child("valueFrom")
	if e.Value != "" {
		c.add(field.Invalid(at, "", "may not be specified when `value` is not empty"))
	}
	c.exactlyOne(at, from.FieldRef != nil, from.ResourceFieldRef != nil, from.ConfigMapKeyRef != nil, from.SecretKeyRef != nil)
	switch {
	case from.FieldRef != nil:
		c.fieldRef(from.FieldRef, envFields, at.Child("fieldRef"))
	case from.ResourceFieldRef != nil:
		c.resourceRef(from.ResourceFieldRef, false, at.Child("resourceFieldRef"))
	case from.ConfigMapKeyRef != nil:
		c.keyRef(from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key, at.Child("configMapKeyRef"))
	case from.SecretKeyRef != nil:
		c.keyRef(from.SecretKeyRef.Name, from.SecretKeyRef.Key, at.Child("secretKeyRef"))
	}
}

// noNUL refuses what no program can be given.
func (c *checks) noNUL(at *field.Path, text string) {
	if strings.ContainsRune(text, 0) {
		c.add(field.Invalid(at, text, "must not contain NUL"))
	}
}

// exactlyOne checks that of several sources one is set.
func (c *checks) exactlyOne(at *field.Path, set ...bool) {
	n := 0
	for _, s := range set {
		if s {
			n++
		}
	}
	switch {
	case n == 0:
		c.add(field.Required(at, "must specify exactly one"))
	case n > 1:
		c.add(field.Forbidden(at, "may not have more than one specified at a time"))
	}
}

func (c *checks) objectName(at *field.Path, name string) {
	c.required(at, name)
	c.valid(at, name, subdomain)
}

func (c *checks) keyRef(name, key string, at *field.Path) {
	c.objectName(at.Child("name"), name)
	c.required(at.Child("key"), key)
	c.valid(at.Child("key"), key, validation.IsConfigMapKey)
}

func (c *checks) envFrom(e *corev1.EnvFromSource, at *field.Path) {
	c.valid(at.Child("prefix"), e.Prefix, validation.IsRelaxedEnvVarName)
	c.exactlyOne(at, e.ConfigMapRef != nil, e.SecretRef != nil)
	if e.ConfigMapRef != nil {
		c.objectName(at.Child("configMapRef", "name"), e.ConfigMapRef.Name)
	}
	if e.SecretRef != nil {
		c.objectName(at.Child("secretRef", "name"), e.SecretRef.Name)
	}
}

// The fields of a pod that its containers can be told.
var (
	envFields = []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
	fileFields = []string{"metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid"}
)

// fieldRef checks a reference to a field of the pod: one of these, or one label or annotation.
func (c *checks) fieldRef(r *corev1.ObjectFieldSelector, known []string, at *field.Path) {
	if r.APIVersion != "v1" {
		c.add(field.NotSupported(at.Child("apiVersion"), r.APIVersion, []string{"v1"}))
	}
	at = at.Child("fieldPath")
	c.required(at, r.FieldPath)
	name, key, subscript := strings.Cut(r.FieldPath, "['")
	key, closed := strings.CutSuffix(key, "']")
	switch {
	case r.FieldPath == "" || !subscript && slices.Contains(known, r.FieldPath):
	case !subscript || !closed || name != "metadata.labels" && name != "metadata.annotations":
		c.add(field.NotSupported(at, r.FieldPath, append(known, "metadata.labels['KEY']", "metadata.annotations['KEY']")))
	default:
		c.required(at, key)
		c.valid(at, key, validation.IsQualifiedName)
	}
}

var resourceFields = []string{"limits.cpu", "limits.memory", "requests.cpu", "requests.memory"}

// resourceRef checks a reference to a container's limits; in a volume the container must be named.
func (c *checks) resourceRef(r *corev1.ResourceFieldSelector, named bool, at *field.Path) {
	if named {
		c.required(at.Child("containerName"), r.ContainerName)
	}
	found := false
	eachContainer(&c.pod.Spec, func(one *corev1.Container, _ *field.Path, _ bool) { found = found || one.Name == r.ContainerName })
	if r.ContainerName != "" && !found {
		c.add(field.NotFound(at.Child("containerName"), r.ContainerName))
	}
	oneOf(c, at.Child("resource"), r.Resource, resourceFields...)
	divisors := []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
	if strings.HasSuffix(r.Resource, ".cpu") {
		divisors = []string{"1m", "1"}
	}
	if !r.Divisor.IsZero() && !slices.Contains(divisors, r.Divisor.String()) {
		c.add(field.NotSupported(at.Child("divisor"), r.Divisor.String(), divisors))
	}
}

func (c *checks) resources(r *corev1.ResourceRequirements, at *field.Path) {
	for _, part := range []struct {
		name string
		list corev1.ResourceList
	}{{"limits", r.Limits}, {"requests", r.Requests}} {
		for name, q := range part.list {
			at := at.Child(part.name).Key(string(name))
			switch name {
			case corev1.ResourceCPU, corev1.ResourceMemory, ResourcePIDs:
			default:
				c.add(field.NotSupported(at, name, []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, ResourcePIDs}))
			}
			if q.Sign() < 0 {
				c.add(field.Invalid(at, q.String(), "must be greater than or equal to 0"))
			}
			if name == ResourcePIDs && (q.MilliValue()%1000 != 0 || q.Sign() == 0) {
				c.add(field.Invalid(at, q.String(), "must be a whole number greater than 0"))
			}
		}
	}
	for name, request := range r.Requests {
		if limit, limited := r.Limits[name]; limited && request.Cmp(limit) > 0 {
			c.add(field.Invalid(at.Child("requests"), request.String(), "must be less than or equal to "+string(name)+" limit of "+limit.String()))
		}
	}
}

func (c *checks) mounts(mounts []corev1.VolumeMount, at *field.Path) {
	seen := map[string]bool{}
	for i, m := range mounts {
		at := at.Index(i)
		c.required(at.Child("name"), m.Name)
		if m.Name != "" && !c.volumes[m.Name] {
			c.add(field.NotFound(at.Child("name"), m.Name))
		}
		c.required(at.Child("mountPath"), m.MountPath)
		switch place := path.Clean(m.MountPath); {
		case m.MountPath == "":
		case !path.IsAbs(m.MountPath):
			c.add(field.Invalid(at.Child("mountPath"), m.MountPath, "must be an absolute path"))
		case place == "/":
			c.add(field.Invalid(at.Child("mountPath"), m.MountPath, "must not be the root"))
		case seen[place]:
			c.add(field.Invalid(at.Child("mountPath"), m.MountPath, "must be unique"))
		default:
			seen[place] = true
		}
		c.noNUL(at.Child("mountPath"), m.MountPath)
		if m.SubPath != "" {
			c.localPath(at.Child("subPath"), m.SubPath)
		}
	}
}

// localPath checks a path that must stay below another.
func (c *checks) localPath(at *field.Path, p string) {
	if path.IsAbs(p) {
		c.add(field.Invalid(at, p, "must be a relative path"))
	}
	if slices.Contains(strings.Split(p, "/"), "..") {
		c.add(field.Invalid(at, p, "must not contain '..'"))
	}
	c.noNUL(at, p)
}

func (c *checks) security(s *corev1.SecurityContext, at *field.Path) {
	c.id(at.Child("runAsUser"), s.RunAsUser)
	c.id(at.Child("runAsGroup"), s.RunAsGroup)
	c.seccomp(s.SeccompProfile, at.Child("seccompProfile"))
	if s.Capabilities == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation {
		return
	}
	for _, added := range s.Capabilities.Add {
		if strings.TrimPrefix(strings.ToUpper(string(added)), "CAP_") == "SYS_ADMIN" {
			c.add(field.Invalid(at, "", "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
		}
	}
}
