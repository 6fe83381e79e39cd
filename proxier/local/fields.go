package local

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// fields are those of an object that are honoured, by name; all others are refused, also those that the API
// may get one day. A rule for a list is one for each of its elements.
type fields map[string]rule

// rule says what is taken in a field.
type rule struct {
	// in are the fields inside; nil takes whatever is inside.
	in fields
	// only are the values that are taken, since they mean nothing here; nil takes any.
	only []any
	// not says why the field is refused.
	not string
}

// anything takes a field as it is.
var anything = rule{}

func of(in fields) rule           { return rule{in: in} }
func only(values ...any) rule     { return rule{only: values} }
func refused(because string) rule { return rule{not: because} }

// names are fields that are taken as they are.
func names(list string, more fields) fields {
	f := fields{}
	for name := range strings.FieldsSeq(list) {
		f[name] = anything
	}
	maps.Copy(f, more)
	return f
}

// podFields are what a v1.Pod may have.
var podFields = fields{
	"apiVersion": anything,
	"kind":       anything,
	"metadata": of(names(`name namespace labels annotations
		generateName selfLink uid resourceVersion generation creationTimestamp ownerReferences managedFields
		deletionTimestamp deletionGracePeriodSeconds finalizers`, nil)),
	"spec":   of(specFields),
	"status": anything, // which is not read
}

var specFields = names(`restartPolicy terminationGracePeriodSeconds dnsPolicy hostname subdomain setHostnameAsFQDN
	hostAliases shareProcessNamespace nodeName serviceAccountName serviceAccount automountServiceAccountToken
	enableServiceLinks`, fields{
	"containers":     of(containerFields),
	"initContainers": of(containerFields),
	"volumes":        of(volumeFields),
	"dnsConfig":      of(names("nameservers searches options", nil)),
	"securityContext": of(names("runAsUser runAsGroup runAsNonRoot fsGroup supplementalGroups sysctls", fields{
		"seccompProfile":           of(seccompFields),
		"appArmorProfile":          of(fields{"type": only("Unconfined")}),
		"seLinuxOptions":           of(fields{}),
		"windowsOptions":           of(fields{}),
		"fsGroupChangePolicy":      only("Always", "OnRootMismatch"),
		"supplementalGroupsPolicy": only("Merge", "Strict"),
	})),
	// There is no scheduler and no other node, so these mean nothing.
	"priority": anything, "priorityClassName": anything, "preemptionPolicy": anything,
	"tolerations": anything, "imagePullSecrets": anything,
	"schedulerName": only("default-scheduler"),
	"nodeSelector":  of(fields{"kubernetes.io/os": only("linux")}),
	"os":            of(fields{"name": only("linux")}),
	"affinity":      of(fields{}), "overhead": of(fields{}), "resources": of(fields{}),
	"hostNetwork": only(false), "hostPID": only(false), "hostIPC": only(false),
	"hostUsers":             only(false), // a pod always has a user namespace of its own
	"activeDeadlineSeconds": refused("no deadline ends a pod here"),
	"readinessGates":        refused("nobody would set the conditions"),
	"schedulingGates":       refused("nobody would remove them"),
	"ephemeralContainers":   refused("use exec"),
})

var seccompFields = fields{"type": only("RuntimeDefault", "Unconfined")}

var containerFields = names(`name image imagePullPolicy command args workingDir terminationMessagePath
	terminationMessagePolicy stdin stdinOnce tty`, fields{
	"env":     of(names("name value", fields{"valueFrom": of(names("fieldRef configMapKeyRef secretKeyRef resourceFieldRef", nil))})),
	"envFrom": of(names("prefix configMapRef secretRef", nil)),
	"ports": of(names("name containerPort protocol", fields{
		"hostPort": refused("use a Service with a node port, or port-forward"),
	})),
	"resources":    of(fields{"limits": of(names("cpu memory pids", nil)), "requests": of(names("cpu memory", nil))}),
	"resizePolicy": of(names("resourceName", fields{"restartPolicy": only("NotRequired")})),
	"volumeMounts": of(names("name mountPath readOnly subPath", fields{
		"mountPropagation":  only("None"),
		"recursiveReadOnly": only("Disabled"),
	})),
	"livenessProbe": of(probeFields), "readinessProbe": of(probeFields), "startupProbe": of(probeFields),
	"lifecycle": of(fields{"postStart": of(handlerFields), "preStop": of(handlerFields)}),
	"securityContext": of(names("runAsUser runAsGroup runAsNonRoot readOnlyRootFilesystem allowPrivilegeEscalation", fields{
		"capabilities":    of(names("add drop", nil)),
		"privileged":      only(false),
		"procMount":       only("Default"),
		"seccompProfile":  of(seccompFields),
		"appArmorProfile": of(fields{"type": only("Unconfined")}),
		"seLinuxOptions":  of(fields{}),
		"windowsOptions":  of(fields{}),
	})),
	"restartPolicy": refused("sidecars, which it makes of init containers, are not run"),
})

var httpFields = names("path port host scheme httpHeaders", nil)

var probeFields = names(`initialDelaySeconds timeoutSeconds periodSeconds successThreshold failureThreshold
	terminationGracePeriodSeconds`, fields{
	"exec":      of(names("command", nil)),
	"tcpSocket": of(names("port host", nil)),
	"httpGet":   of(httpFields),
})

var handlerFields = fields{
	"exec":    of(names("command", nil)),
	"sleep":   of(names("seconds", nil)),
	"httpGet": of(httpFields),
}

var itemFields = names("key path mode", nil)

var downwardFields = names("path fieldRef resourceFieldRef mode", nil)

var volumeFields = fields{
	"name":        anything,
	"emptyDir":    of(names("medium sizeLimit", nil)),
	"hostPath":    of(names("path type", nil)),
	"configMap":   of(names("name defaultMode optional", fields{"items": of(itemFields)})),
	"secret":      of(names("secretName defaultMode optional", fields{"items": of(itemFields)})),
	"downwardAPI": of(names("defaultMode", fields{"items": of(downwardFields)})),
	"projected": of(names("defaultMode", fields{"sources": of(fields{
		"configMap":   of(names("name optional", fields{"items": of(itemFields)})),
		"secret":      of(names("name optional", fields{"items": of(itemFields)})),
		"downwardAPI": of(fields{"items": of(downwardFields)}),
		// Its lifetime can't be chosen; that of admission's own volume and the API's default are as good.
		"serviceAccountToken": of(names("audience path", fields{"expirationSeconds": only(3600, 3607)})),
	})})),
}

// checkPodFields refuses the fields of a pod that are not honoured.
func checkPodFields(doc []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(doc))
	decoder.UseNumber()
	var read any
	if err := decoder.Decode(&read); err != nil {
		return err
	}
	var wrong field.ErrorList
	of(podFields).check(read, nil, &wrong)
	return listError(wrong)
}

// check adds what is not taken of a value.
func (r rule) check(value any, path *field.Path, wrong *field.ErrorList) {
	if unset(value) {
		return
	}
	if r.not != "" {
		*wrong = append(*wrong, field.Forbidden(path, "not supported: "+r.not))
		return
	}
	switch v := value.(type) {
	case []any:
		for i, element := range v {
			r.check(element, path.Index(i), wrong)
		}
		return
	case map[string]any:
		if r.in == nil {
			return
		}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			inner, taken := r.in[name]
			switch {
			case taken:
				inner.check(v[name], path.Child(name), wrong)
			case !unset(v[name]):
				*wrong = append(*wrong, field.Forbidden(path.Child(name), "not supported by the sandbox"))
			}
		}
		return
	}
	if r.only == nil {
		return
	}
	var taken []string
	for _, one := range r.only {
		if fmt.Sprint(one) == fmt.Sprint(value) {
			return
		}
		taken = append(taken, fmt.Sprint(one))
	}
	*wrong = append(*wrong, field.NotSupported(path, fmt.Sprint(value), taken))
}

// unset tells whether a value is as good as none.
func unset(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	}
	return false
}
