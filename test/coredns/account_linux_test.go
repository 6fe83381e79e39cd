package coredns

import (
	"os"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// createAccount makes CoreDNS' service account with the rights that kubeadm gives it, and no others, and puts a token
// of it into the secret coredns-token, with the name of those who sign for the API server.
func (c *cluster) createAccount() {
	c.Helper()
	const namespace, name, role = "kube-system", "coredns", "system:coredns"
	var options metav1.CreateOptions
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	_, err := c.Client.CoreV1().ServiceAccounts(namespace).Create(c.Context(), account, options)
	c.must(err)
	read := []string{"list", "watch"}
	_, err = c.Client.RbacV1().ClusterRoles().Create(c.Context(), &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: role},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"endpoints", "services", "pods", "namespaces"}, Verbs: read},
			{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: read},
		},
	}, options)
	c.must(err)
	_, err = c.Client.RbacV1().ClusterRoleBindings().Create(c.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: namespace}},
	}, options)
	c.must(err)
	token, err := c.Client.CoreV1().ServiceAccounts(namespace).CreateToken(c.Context(), name, &authenticationv1.TokenRequest{}, options)
	c.must(err)
	signers, err := os.ReadFile(c.Certificate)
	c.must(err)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "coredns-token"},
		Data:       map[string][]byte{"ca.crt": signers, "namespace": []byte(namespace), "token": []byte(token.Status.Token)},
	}
	_, err = c.Client.CoreV1().Secrets(namespace).Create(c.Context(), secret, options)
	c.must(err)
}
