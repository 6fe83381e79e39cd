package cluster

import (
	"errors"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"svcproxy/proxier/local"
)

// PodOptions describe a pod of one container, as a command line does.
type PodOptions struct {
	Namespace, Name string
	Image           string
	// Command makes Args the command, in place of the image's entrypoint.
	Command       bool
	Args          []string
	Env           []string // NAME=VALUE
	Labels        map[string]string
	Ports         []int32
	Volumes       []Volume
	Limits        Limits
	RestartPolicy string
	Stdin, TTY    bool
}

// Volume is a folder of the machine, mounted in the container.
type Volume struct {
	Host, Container string
	ReadOnly        bool
}

// Manifests is the pod as a manifest, checked as one.
func (o PodOptions) Manifests() (*local.Manifests, error) {
	container := v1.Container{Name: o.Name, Image: o.Image, Stdin: o.Stdin, StdinOnce: o.Stdin, TTY: o.TTY}
	if o.Command {
		container.Command = o.Args
	} else {
		container.Args = o.Args
	}
	for _, text := range o.Env {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("--env: %q: want NAME=VALUE", text)
		}
		container.Env = append(container.Env, v1.EnvVar{Name: name, Value: value})
	}
	for _, port := range o.Ports {
		container.Ports = append(container.Ports, v1.ContainerPort{ContainerPort: port})
	}
	var err error
	if container.Resources.Limits, err = o.Limits.list(); err != nil {
		return nil, err
	}
	pod := v1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: string(Pods)},
		ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name, Labels: o.Labels},
		Spec:       v1.PodSpec{RestartPolicy: v1.RestartPolicy(o.RestartPolicy)},
	}
	for i, volume := range o.Volumes {
		name := fmt.Sprintf("volume-%d", i)
		container.VolumeMounts = append(container.VolumeMounts, v1.VolumeMount{Name: name, MountPath: volume.Container, ReadOnly: volume.ReadOnly})
		pod.Spec.Volumes = append(pod.Spec.Volumes, v1.Volume{
			Name: name, VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: volume.Host}},
		})
	}
	pod.Spec.Containers = []v1.Container{container}
	text, err := yaml.Marshal(pod)
	if err != nil {
		return nil, err
	}
	return local.Parse("command line", text)
}

// list reads the limits; those that are empty are left out.
func (l Limits) list() (v1.ResourceList, error) {
	list := v1.ResourceList{}
	var errs []error
	for _, field := range []struct {
		name v1.ResourceName
		text string
	}{{v1.ResourceMemory, l.Memory}, {v1.ResourceCPU, l.CPU}, {local.ResourcePIDs, l.Pids}} {
		if field.text == "" {
			continue
		}
		q, err := resource.ParseQuantity(field.text)
		if err != nil {
			errs = append(errs, fmt.Errorf("resources.limits.%s: %q: %w", field.name, field.text, err))
			continue
		}
		list[field.name] = q
	}
	return list, errors.Join(errs...)
}
