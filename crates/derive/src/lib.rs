//! `#[derive(Module)]`: named traversal of the parameters of a struct; use it through `wgrad_nn::Module`.
//!
//! Each field is visited under its own name, in the order of declaration, so that the names of parameters are the paths
//! that one would write in Rust, joined by dots: `h.0.attn.c_attn.weight`.
#![forbid(unsafe_code)]

use proc_macro_crate::{FoundCrate, crate_name};
use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::{
    Attribute, Data, DeriveInput, Error, Field, Fields, Ident, LitStr, Member, Path, Result, Type,
    parse_macro_input,
};

/// Implements `wgrad_nn::Module` for a struct, visiting its fields in the order of declaration.
///
/// A field is a `Param`, a `Module`, or a `Vec`, `Option`, `Box` or `Arc` of one. Fields of the primitive types (`usize`,
/// `f64`, `bool`, ...), `String`s and `PhantomData` hold no parameters and are passed over; any other plain field says so:
///
/// - `#[module(skip)]` on a field: it holds no parameters;
/// - `#[module(rename = "name")]` on a field: the name it has in files; `""` adds no name of its own, so that the parameters
///   inside appear as if they were fields of this struct;
/// - `#[module(crate = "path")]` on the struct: where `wgrad_nn` is found, if it is neither a dependency under its own name
///   nor re-exported by the dependency `wgrad`.
///
/// ```text
/// #[derive(Module)]
/// struct Mlp {
///     c_fc: Linear,             // c_fc.weight, c_fc.bias
///     c_proj: Linear,
///     #[module(skip)]
///     act: Activation,
///     dropout: f64,
/// }
/// ```
#[proc_macro_derive(Module, attributes(module))]
pub fn derive_module(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(
            &input.ident,
            "`Module` can be derived for structs only; implement `Module::visit` by hand for an enum",
        ));
    };
    let nn = match struct_options(&input.attrs)? {
        Some(path) => quote!(#path),
        None => nn_path()?,
    };
    let visits = fields(&data.fields).map(|(member, field)| visit(&nn, &member, field));
    let visits = visits.collect::<Result<Vec<_>>>()?;
    let name = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    Ok(quote! {
        impl #impl_generics #nn::Module for #name #type_generics #where_clause {
            fn visit(&self, visitor: &mut #nn::Visitor<'_>) {
                #(#visits)*
                let _ = visitor;
            }
        }
    })
}

/// The line that visits one field, or nothing.
fn visit(nn: &TokenStream, member: &Member, field: &Field) -> Result<TokenStream> {
    let options = FieldOptions::parse(&field.attrs)?;
    if options.skip {
        return Ok(TokenStream::new());
    }
    if options.rename.is_none() && is_plain(&field.ty) {
        return Ok(TokenStream::new());
    }
    let name = match &options.rename {
        Some(name) => name.clone(),
        None => LitStr::new(
            &match member {
                // A raw identifier (`r#type`) is named without its prefix.
                Member::Named(ident) => ident.to_string().trim_start_matches("r#").to_owned(),
                Member::Unnamed(index) => index.index.to_string(),
            },
            Span::call_site(),
        ),
    };
    // The span of the type makes "is not a module" point at the field instead of at the derive.
    let ty = &field.ty;
    let checked = quote::quote_spanned! {syn::spanned::Spanned::span(ty)=> <#ty as #nn::Module>::visit };
    Ok(quote! { visitor.field(#name, |visitor| #checked(&self.#member, visitor)); })
}

/// `#[module(skip)]`, `#[module(rename = "...")]`.
#[derive(Default)]
struct FieldOptions {
    skip: bool,
    rename: Option<LitStr>,
}

impl FieldOptions {
    fn parse(attrs: &[Attribute]) -> Result<Self> {
        let mut options = FieldOptions::default();
        for attr in attrs.iter().filter(|a| a.path().is_ident("module")) {
            attr.parse_nested_meta(|meta| {
                if meta.path.is_ident("skip") {
                    options.skip = true;
                } else if meta.path.is_ident("rename") {
                    let name: LitStr = meta.value()?.parse()?;
                    if name.value().split('.').any(str::is_empty) && !name.value().is_empty() {
                        return Err(Error::new(name.span(), "a name has no empty parts between its dots"));
                    }
                    options.rename = Some(name);
                } else {
                    return Err(meta.error("expected `skip` or `rename = \"name\"` on a field"));
                }
                Ok(())
            })?;
            if let (true, Some(name)) = (options.skip, &options.rename) {
                return Err(Error::new(
                    name.span(),
                    "a skipped field has no name in files; drop one of the two",
                ));
            }
        }
        Ok(options)
    }
}

/// `#[module(crate = "path")]` on the struct.
fn struct_options(attrs: &[Attribute]) -> Result<Option<Path>> {
    let mut path = None;
    for attr in attrs.iter().filter(|a| a.path().is_ident("module")) {
        attr.parse_nested_meta(|meta| {
            if meta.path.is_ident("crate") {
                path = Some(meta.value()?.parse::<LitStr>()?.parse::<Path>()?);
                Ok(())
            } else {
                Err(meta.error("expected `crate = \"path\"` on a struct; `skip` and `rename` go on fields"))
            }
        })?;
    }
    Ok(path)
}

/// Where the deriving crate finds `wgrad_nn`: its own dependency, or the façade's re-export.
fn nn_path() -> Result<TokenStream> {
    let named = |name: &str| {
        let ident = format_ident!("{name}");
        quote!(::#ident)
    };
    match (crate_name("wgrad-nn"), crate_name("wgrad")) {
        (Ok(FoundCrate::Name(name)), _) => Ok(named(&name)),
        // The crate names itself so (`extern crate self`), for its own examples and tests see it under no other name.
        (Ok(FoundCrate::Itself), _) => Ok(quote!(::wgrad_nn)),
        (_, Ok(FoundCrate::Name(name))) => {
            let wgrad = named(&name);
            Ok(quote!(#wgrad::nn))
        }
        (_, Ok(FoundCrate::Itself)) => Ok(quote!(::wgrad::nn)),
        _ => Err(Error::new(
            Span::call_site(),
            "neither `wgrad` nor `wgrad-nn` is a dependency in Cargo.toml; add one, or say where it is: \
             `#[module(crate = \"path::to::wgrad_nn\")]`",
        )),
    }
}

fn fields(fields: &Fields) -> impl Iterator<Item = (Member, &Field)> {
    fields.members().zip(fields.iter())
}

/// Types that cannot hold a parameter whatever is imported: primitives, `String`, `PhantomData`.
fn is_plain(ty: &Type) -> bool {
    const PLAIN: [&str; 17] = [
        "bool", "char", "f32", "f64", "i8", "i16", "i32", "i64", "i128", "isize", "u8", "u16", "u32", "u64",
        "u128", "usize", "String",
    ];
    let Type::Path(path) = ty else { return false };
    let is = |ident: &Ident| PLAIN.iter().any(|name| ident == name);
    path.qself.is_none()
        && (path.path.get_ident().is_some_and(is)
            || path.path.segments.last().is_some_and(|s| s.ident == "PhantomData"))
}
