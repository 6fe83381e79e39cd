package local

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (c *checks) volume(v *corev1.Volume, at *field.Path) {
	c.required(at.Child("name"), v.Name)
	c.valid(at.Child("name"), v.Name, label)
	if c.volumes[v.Name] {
		c.add(field.Duplicate(at.Child("name"), v.Name))
	}
	c.volumes[v.Name] = true
	c.exactlyOne(at, v.EmptyDir != nil, v.HostPath != nil, v.ConfigMap != nil, v.Secret != nil, v.DownwardAPI != nil, v.Projected != nil)
	paths := map[string]bool{}
	switch {
	case v.EmptyDir != nil:
		c.emptyDir(v.EmptyDir, at.Child("emptyDir"))
	case v.HostPath != nil:
		c.hostPath(v.HostPath, at.Child("hostPath"))
	case v.ConfigMap != nil:
		at := at.Child("configMap")
		c.objectName(at.Child("name"), v.ConfigMap.Name)
		c.mode(v.ConfigMap.DefaultMode, at.Child("defaultMode"))
		c.items(v.ConfigMap.Items, paths, at.Child("items"))
	case v.Secret != nil:
		at := at.Child("secret")
		c.objectName(at.Child("secretName"), v.Secret.SecretName)
		c.mode(v.Secret.DefaultMode, at.Child("defaultMode"))
		c.items(v.Secret.Items, paths, at.Child("items"))
	case v.DownwardAPI != nil:
		at := at.Child("downwardAPI")
		c.mode(v.DownwardAPI.DefaultMode, at.Child("defaultMode"))
		c.downward(v.DownwardAPI.Items, paths, at.Child("items"))
	case v.Projected != nil:
		at := at.Child("projected")
		c.mode(v.Projected.DefaultMode, at.Child("defaultMode"))
		for i := range v.Projected.Sources {
			c.projection(&v.Projected.Sources[i], paths, at.Child("sources").Index(i))
		}
	}
}

func (c *checks) emptyDir(v *corev1.EmptyDirVolumeSource, at *field.Path) {
	oneOf(c, at.Child("medium"), v.Medium, corev1.StorageMediumDefault, corev1.StorageMediumMemory)
	if v.SizeLimit != nil && v.SizeLimit.Sign() < 0 {
		c.add(field.Invalid(at.Child("sizeLimit"), v.SizeLimit.String(), "must be greater than or equal to 0"))
	}
}

// hostPathTypes are the kinds of things that can be mounted from the host: no devices.
var hostPathTypes = []corev1.HostPathType{corev1.HostPathUnset, corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate,
	corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket}

func (c *checks) hostPath(v *corev1.HostPathVolumeSource, at *field.Path) {
	c.required(at.Child("path"), v.Path)
	if v.Path != "" && !path.IsAbs(v.Path) {
		c.add(field.Invalid(at.Child("path"), v.Path, "must be an absolute path"))
	}
	if slices.Contains(strings.Split(v.Path, "/"), "..") {
		c.add(field.Invalid(at.Child("path"), v.Path, "must not contain '..'"))
	}
	c.noNUL(at.Child("path"), v.Path)
	if v.Type != nil {
		oneOf(c, at.Child("type"), *v.Type, hostPathTypes...)
	}
}

func (c *checks) mode(mode *int32, at *field.Path) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		c.add(field.Invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive"))
	}
}

// filePath checks the path of a file in a volume, and that it is the only one there.
func (c *checks) filePath(p string, paths map[string]bool, at *field.Path) {
	c.required(at, p)
	c.localPath(at, p)
	if strings.HasPrefix(p, "..") {
		c.add(field.Invalid(at, p, "must not start with '..'"))
	}
	if clean := path.Clean(p); paths[clean] && p != "" {
		c.add(field.Invalid(at, p, "conflicting duplicate paths"))
	} else {
		paths[clean] = true
	}
}

func (c *checks) items(items []corev1.KeyToPath, paths map[string]bool, at *field.Path) {
	for i, item := range items {
		at := at.Index(i)
		c.required(at.Child("key"), item.Key)
		c.valid(at.Child("key"), item.Key, validation.IsConfigMapKey)
		c.filePath(item.Path, paths, at.Child("path"))
		c.mode(item.Mode, at.Child("mode"))
	}
}

func (c *checks) downward(files []corev1.DownwardAPIVolumeFile, paths map[string]bool, at *field.Path) {
	for i, f := range files {
		at := at.Index(i)
		c.filePath(f.Path, paths, at.Child("path"))
		c.mode(f.Mode, at.Child("mode"))
		c.exactlyOne(at, f.FieldRef != nil, f.ResourceFieldRef != nil)
		if f.FieldRef != nil {
			c.fieldRef(f.FieldRef, fileFields, at.Child("fieldRef"))
		}
		if f.ResourceFieldRef != nil {
			c.resourceRef(f.ResourceFieldRef, true, at.Child("resourceFieldRef"))
		}
	}
}

func (c *checks) projection(s *corev1.VolumeProjection, paths map[string]bool, at *field.Path) {
	c.exactlyOne(at, s.ConfigMap != nil, s.Secret != nil, s.DownwardAPI != nil, s.ServiceAccountToken != nil)
	switch {
	case s.ConfigMap != nil:
		c.objectName(at.Child("configMap", "name"), s.ConfigMap.Name)
		c.items(s.ConfigMap.Items, paths, at.Child("configMap", "items"))
	case s.Secret != nil:
		c.objectName(at.Child("secret", "name"), s.Secret.Name)
		c.items(s.Secret.Items, paths, at.Child("secret", "items"))
	case s.DownwardAPI != nil:
		c.downward(s.DownwardAPI.Items, paths, at.Child("downwardAPI", "items"))
	case s.ServiceAccountToken != nil:
		c.filePath(s.ServiceAccountToken.Path, paths, at.Child("serviceAccountToken", "path"))
	}
}
